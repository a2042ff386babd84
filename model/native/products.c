/* A few rows times a matrix larger than the cache, fp32, or bf16 where the processor multiplies it.
 *
 * C = A B for A [M, K] and B [K, N], or B^T [N, K] as linear layers store it; all row by row. For so
 * few rows the matrix's way from memory takes as long as the arithmetic, so each tile fetches its
 * share of what the tiles after it need. Sums are fp32, in one fixed order. A word is one float, or
 * two bf16 neighbours along the summed axis.
 */
#include "simd.h"

#if LANES == 16
#define DOT_ROWS 6
#else
#define DOT_ROWS 3
#endif
#define DOT_COLUMNS 4
#define BLOCK 64
#define DEPTH 128
#define COLUMNS 256
#define LINE 64

/* Whether this processor gains; Apple's matrix units, too, are for a library. */
int emo_has_products(long half) { return LANES >= 8 && (!half || HALF_PRODUCTS); }

INLINE void fetch_line(const char *at) { __builtin_prefetch(at, 0, 1); }

/* Sums of the lanes of four vectors, as one row of C. */
INLINE void store_sums(const vec *x, char *C, const int half) {
    const vec a = LOW(x[0], x[1]) + HIGH(x[0], x[1]), b = LOW(x[2], x[3]) + HIGH(x[2], x[3]);
    const vec mixed = LOW(a, b) + HIGH(a, b);
    float sums[4] = {0};
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 4; j++) sums[j] += mixed[i + j];
    const float in_order[4] = {sums[0], sums[2], sums[1], sums[3]};
    for (int j = 0; j < 4; j++) {
        if (half) ((uint16_t *)C)[j] = round_to_half(in_order[j]);
        else ((float *)C)[j] = in_order[j];
    }
}

/* C[m, n] = A[m] . B[n] for `rows` x DOT_COLUMNS, vectors along the summed axis; rows `fetch_from`
 * to `fetch_to` of the next DOT_COLUMNS rows of B are fetched (past the end of B to no effect). */
INLINE void dot_tile(const int rows, long depth, const vec *A, const vec *B, char *C, long ldc,
                     const int half, long fetch_from, long fetch_to) {
    vec sum[DOT_ROWS][DOT_COLUMNS] = {0};
    for (long k = 0; k < depth; k++) {
        vec b[DOT_COLUMNS];
        for (int n = 0; n < DOT_COLUMNS; n++) b[n] = B[n * depth + k];
        for (long n = fetch_from; n < fetch_to; n++)
            fetch_line((const char *)(B + (n + DOT_COLUMNS) * depth + k));
        for (int m = 0; m < rows; m++) {
            const vec a = A[m * depth + k];
            for (int n = 0; n < DOT_COLUMNS; n++) sum[m][n] = multiply_add(sum[m][n], a, b[n], half);
        }
    }
    for (int m = 0; m < rows; m++) store_sums(sum[m], C + m * ldc, half);
}

/* Rows `from` to `to` of B^T against at most BLOCK rows of A. */
INLINE void dots(long M, long N, long K, long from, long to, const char *A, const char *B, char *C,
                 const int half) {
    const long size = half ? 2 : 4, row = K * size, depth = row / sizeof(vec);
    const long tiles = (M + DOT_ROWS - 1) / DOT_ROWS;
    for (long n = from; n < to; n += DOT_COLUMNS)
        for (long t = 0; t < tiles; t++) {
            const long m = M * t / tiles, rows = M * (t + 1) / tiles - m;
            const long f0 = DOT_COLUMNS * t / tiles, f1 = DOT_COLUMNS * (t + 1) / tiles;
            const vec *a = (const vec *)(A + m * row), *b = (const vec *)(B + n * row);
            char *c = C + (m * N + n) * size;
#define DOTS(R) \
    case R: dot_tile(R, depth, a, b, c, N * size, half, f0, f1); break;
            switch (rows) {
                DOTS(1) DOTS(2) DOTS(3)
#if DOT_ROWS > 3
                DOTS(4) DOTS(5) DOTS(6)
#endif
            }
        }
}

/* A part of B that is fetched while another is worked on: `lines` cache lines, `per_row` a row. */
typedef struct {
    const char *start;
    long row, per_row, lines;
} Ahead;

INLINE const char *ahead_line(Ahead ahead, long i) {
    return ahead.start + i / ahead.per_row * ahead.row + i % ahead.per_row * LINE;
}

/* C[m, n] (+)= sum of words A[m, k] * panel[k, n] for `rows` x TILE_COLUMNS, fetching lines `first`
 * on, one a step. */
INLINE void panel_tile(const int rows, long depth, const float *A, long lda, const float *panel,
                       float *C, int accumulate, const int half, Ahead ahead, long first,
                       long lines) {
    vec sum[TILE_ROWS][TILE_VECTORS];
    for (int m = 0; m < rows; m++)
        for (int v = 0; v < TILE_VECTORS; v++)
            sum[m][v] = accumulate ? *(vec *)(C + m * COLUMNS + v * LANES) : (vec){0};
    for (long k = 0; k < depth; k++) {
        const vec *b = (const vec *)(panel + k * TILE_COLUMNS);
        if (k < lines) fetch_line(ahead_line(ahead, first + k));
        for (int m = 0; m < rows; m++) {
            const vec a = spread(A + m * lda + k);
            for (int v = 0; v < TILE_VECTORS; v++)
                sum[m][v] = multiply_add(sum[m][v], a, b[v], half);
        }
    }
    for (int m = 0; m < rows; m++)
        for (int v = 0; v < TILE_VECTORS; v++) *(vec *)(C + m * COLUMNS + v * LANES) = sum[m][v];
}

/* All of a panel for M rows of A. */
INLINE void panel_product(long M, long columns, long depth, const float *A, long lda,
                          const float *panel, float *C, int accumulate, const int half,
                          Ahead ahead) {
    const long tiles = (M + TILE_ROWS - 1) / TILE_ROWS, strips = columns / TILE_COLUMNS;
    const long share = (ahead.lines + tiles * strips - 1) / (tiles * strips);
    for (long s = 0; s < strips; s++)
        for (long t = 0; t < tiles; t++) {
            const long m = M * t / tiles, rows = M * (t + 1) / tiles - m;
            const long first = (s * tiles + t) * share, left = ahead.lines - first;
            const long lines = left < share ? left : share;
            const float *a = A + m * lda, *b = panel + s * depth * TILE_COLUMNS;
            float *c = C + m * COLUMNS + s * TILE_COLUMNS;
#define PANEL(R) \
    case R: panel_tile(R, depth, a, lda, b, c, accumulate, half, ahead, first, lines); break;
            switch (rows) {
                PANEL(1) PANEL(2) PANEL(3) PANEL(4) PANEL(5) PANEL(6)
#if TILE_ROWS > 6
                PANEL(7) PANEL(8)
#endif
            }
        }
}

/* `depth` words of B from one row (bf16: pair of rows) on, in strips of TILE_COLUMNS. */
INLINE void pack(const char *B, long N, long columns, long depth, float *panel, const int half) {
    for (long k = 0; k < depth; k++)
        for (long n = 0; n < columns; n += LANES) {
            float *to = panel + (n / TILE_COLUMNS * depth + k) * TILE_COLUMNS + n % TILE_COLUMNS;
            if (half) {
                const uint16_t *low = (const uint16_t *)B + 2 * k * N + n, *high = low + N;
                const uvec bits = __builtin_convertvector(*(const hvec *)high, uvec) << 16;
                *(uvec *)to = bits | __builtin_convertvector(*(const hvec *)low, uvec);
            } else {
                *(vec *)to = *(const vec *)((const float *)B + k * N + n);
            }
        }
}

/* Columns `from` to `to` of B against at most BLOCK rows of A. */
INLINE void panels(long M, long N, long K, long from, long to, const char *A, const char *B,
                   char *C, float *memory, const int half) {
    const long size = half ? 2 : 4, per_word = 4 / size, words = K / per_word;
    float *panel = memory, *sums = panel + DEPTH * COLUMNS;
    for (long n = from; n < to; n += COLUMNS) {
        const long columns = to - n < COLUMNS ? to - n : COLUMNS;
        for (long k = 0; k < words; k += DEPTH) {
            const long depth = words - k < DEPTH ? words - k : DEPTH, next = k + depth;
            const char *b = B + (k * per_word * N + n) * size;
            const char *below = B + (next * per_word * N + n) * size;
            const char *beside = n + columns < to ? B + (n + columns) * size : b;
            const long per_row = columns * size / LINE, lines = depth * per_word * per_row;
            const Ahead ahead = {next < words ? below : beside, N * size, per_row, lines};
            pack(b, N, columns, depth, panel, half);
            const float *a = (const float *)A + k;
            panel_product(M, columns, depth, a, words, panel, sums, k > 0, half, ahead);
        }
        for (long m = 0; m < M; m++)
            for (long j = 0; j < columns; j += LANES)
                store(C + (m * N + n) * size, j, *(vec *)(sums + m * COLUMNS + j), half);
    }
}

INLINE int by_blocks(long M, long N, long K, long from, long to, long transposed, const char *A,
                      const char *B, char *C, const int half) {
    const long size = half ? 2 : 4;
    float *memory = aligned_alloc(64, (DEPTH + BLOCK) * COLUMNS * sizeof *memory);
    if (!memory) return 1;
    for (long m = 0; m < M; m += BLOCK) {
        const long rows = M - m < BLOCK ? M - m : BLOCK;
        const char *a = A + m * K * size;
        char *c = C + m * N * size;
        if (transposed) dots(rows, N, K, from, to, a, B, c, half);
        else panels(rows, N, K, from, to, a, B, c, memory, half);
    }
    free(memory);
    return 0;
}

/* Columns `from` to `to` of C; K, `from` and `to` are multiples of 32. */
int emo_product(long M, long N, long K, long from, long to, long transposed, long half,
                const char *A, const char *B, char *C) {
    if (half) return by_blocks(M, N, K, from, to, transposed, A, B, C, 1);
    return by_blocks(M, N, K, from, to, transposed, A, B, C, 0);
}
