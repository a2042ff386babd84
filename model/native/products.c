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
#define MOST_ROWS 64
#define DEPTH 128
#define COLUMNS 256

/* Whether this processor gains; Apple's matrix units, too, are for a library. */
int emo_has_products(long half) { return LANES >= 8 && (!half || HALF_PRODUCTS); }

/* Sums of the lanes of four vectors, as one row of C. */
INLINE void store_sums(const vec *x, char *C, const int half) {
    float sums[4];
    sum_four(x, sums);
    for (int j = 0; j < 4; j++) {
        if (half) ((uint16_t *)C)[j] = round_to_half(sums[j]);
        else ((float *)C)[j] = sums[j];
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
            fetch_line(B + (n + DOT_COLUMNS) * depth + k);
        for (int m = 0; m < rows; m++) {
            const vec a = A[m * depth + k];
            for (int n = 0; n < DOT_COLUMNS; n++) sum[m][n] = multiply_add(sum[m][n], a, b[n], half);
        }
    }
    for (int m = 0; m < rows; m++) store_sums(sum[m], C + m * ldc, half);
}

INLINE void dots(long M, long N, long K, const char *A, const char *B, char *C, const int half) {
    const long size = half ? 2 : 4, row = K * size, depth = row / sizeof(vec);
    const long tiles = (M + DOT_ROWS - 1) / DOT_ROWS;
    for (long n = 0; n < N; n += DOT_COLUMNS)
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

/* A panel of B for all rows of A; each tile fetches its share of the lines ahead. */
INLINE void panel_product(long M, long columns, long depth, const float *A, long lda,
                          const float *panel, float *C, int accumulate, const int half,
                          Lines ahead) {
    const long tiles = (M + TILE_ROWS - 1) / TILE_ROWS, strips = columns / TILE_COLUMNS;
    const long all = ahead.count, share = (all + tiles * strips - 1) / (tiles * strips);
    for (long s = 0; s < strips; s++)
        for (long t = 0; t < tiles; t++) {
            const long m = M * t / tiles, rows = M * (t + 1) / tiles - m;
            ahead.first = (s * tiles + t) * share;
            ahead.count = all - ahead.first < share ? all - ahead.first : share;
            tile_of(rows, A + m * lda, lda, 1, panel + s * depth * TILE_COLUMNS, TILE_COLUMNS,
                    C + m * COLUMNS + s * TILE_COLUMNS, COLUMNS, depth, accumulate, half, ahead);
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

INLINE void panels(long M, long N, long K, const char *A, const char *B, char *C, float *memory,
                   const int half) {
    const long size = half ? 2 : 4, per_word = 4 / size, words = K / per_word;
    float *panel = memory, *sums = panel + DEPTH * COLUMNS;
    for (long n = 0; n < N; n += COLUMNS) {
        const long columns = N - n < COLUMNS ? N - n : COLUMNS;
        for (long k = 0; k < words; k += DEPTH) {
            const long depth = words - k < DEPTH ? words - k : DEPTH, next = k + depth;
            const char *b = B + (k * per_word * N + n) * size;
            const char *below = B + (next * per_word * N + n) * size;
            const char *beside = n + columns < N ? B + (n + columns) * size : b;
            const long per_row = columns * size / LINE, lines = depth * per_word * per_row;
            const Lines ahead = {next < words ? below : beside, N * size, per_row, 0, lines};
            pack(b, N, columns, depth, panel, half);
            const float *a = (const float *)A + k;
            panel_product(M, columns, depth, a, words, panel, sums, k > 0, half, ahead);
        }
        for (long m = 0; m < M; m++)
            for (long j = 0; j < columns; j += LANES)
                store(C + (m * N + n) * size, j, *(vec *)(sums + m * COLUMNS + j), half);
    }
}

/* At most MOST_ROWS rows; K and N are multiples of 32. */
int emo_product(long M, long N, long K, long transposed, long half, const char *A, const char *B,
                char *C) {
    float *memory = aligned_alloc(64, (DEPTH + MOST_ROWS) * COLUMNS * sizeof *memory);
    if (!memory) return 1;
    if (transposed && half) dots(M, N, K, A, B, C, 1);
    else if (transposed) dots(M, N, K, A, B, C, 0);
    else if (half) panels(M, N, K, A, B, C, memory, 1);
    else panels(M, N, K, A, B, C, memory, 0);
    free(memory);
    return 0;
}
