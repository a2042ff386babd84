/* Products of an expert's rows with its weights, which lie row by row as transformers stores them.
 *
 * Two ways. Few rows: a sum runs along a vector (`dots`), no lane is idle. More: every lane is a row
 * of its own (`lanes`), weights are spread one at a time, and a tile has far fewer loads than sums.
 * Both read every weight once from memory and fetch what they need next meanwhile.
 */
#ifndef EMO_WIDE_H
#define EMO_WIDE_H
#include "simd.h"

/* What a row of weights holds: floats; bf16, widened to floats on its way; or bf16 as words of two,
 * which the processor multiplies. */
enum { FLOATS, HALVES, WORDS };

#if LANES == 16
#define DOT_ROWS 6
#define LANE_ROWS 8
#else
#define DOT_ROWS 3
#define LANE_ROWS 4
#endif
#define DOT_COLUMNS 4
#define LANE_VECTORS 3
#define CHUNK 512 /* numbers of a row of weights at a time: LANE_ROWS of them fit the nearest cache */
#define BLOCK (2 * LANE_VECTORS * LANES)

INLINE long number_size(const int kind) { return kind == FLOATS ? 4 : 2; }

/* A vector of a row of weights: LANES floats, or LANES words. */
INLINE vec weights_at(const char *row, long k, const int kind) {
    return kind == HALVES ? load(row, k * LANES, 1) : *(const vec *)(row + k * sizeof(vec));
}

/* C[m, n] = A[m] . B[n] of `rows` x DOT_COLUMNS; the next rows of weights are fetched meanwhile. */
INLINE void dot_tile(const int rows, long depth, const vec *A, const char *B, long row, float *C,
                     long ldc, const int kind, long lines) {
    const char *ahead = B + DOT_COLUMNS * row;
    vec sum[DOT_ROWS][DOT_COLUMNS] = {0};
    for (long k = 0; k < depth; k++) {
        vec b[DOT_COLUMNS];
        for (int n = 0; n < DOT_COLUMNS; n++) b[n] = weights_at(B + n * row, k, kind);
        for (long line = k * lines; line < (k + 1) * lines; line++) fetch_line(ahead + line * LINE);
        for (int m = 0; m < rows; m++) {
            const vec a = A[m * depth + k];
            for (int n = 0; n < DOT_COLUMNS; n++)
                sum[m][n] = multiply_add(sum[m][n], a, b[n], kind == WORDS);
        }
    }
    for (int m = 0; m < rows; m++) sum_four(sum[m], C + m * ldc);
}

/* C [M, columns] = A B^T for B [columns, numbers]; the first tile of rows fetches what follows. */
INLINE void dots(long M, long columns, long numbers, const float *A, const char *B, float *C,
                 const int kind) {
    const long row = numbers * number_size(kind), tiles = (M + DOT_ROWS - 1) / DOT_ROWS;
    const long depth = numbers / LANES / (kind == WORDS ? 2 : 1);
    /* Lines that each step of the sum fetches, at least all of the next rows together. */
    const long all = (DOT_COLUMNS * row / LINE + depth - 1) / depth;
    for (long n = 0; n < columns; n += DOT_COLUMNS)
        for (long t = 0; t < tiles; t++) {
            const long m = M * t / tiles, rows = M * (t + 1) / tiles - m, lines = t ? 0 : all;
            const vec *a = (const vec *)A + m * depth;
#define DOTS(R) \
    case R: dot_tile(R, depth, a, B + n * row, row, C + m * columns + n, columns, kind, lines); break;
            switch (rows) {
                DOTS(1) DOTS(2) DOTS(3)
#if DOT_ROWS > 3
                DOTS(4) DOTS(5) DOTS(6)
#endif
            }
        }
}

/* Some rows of weights: half of LANE_ROWS from `first` on, half from `second`, of `row` bytes. */
typedef struct {
    const char *first, *second;
    long row;
} Strip;

INLINE const char *strip_row(Strip strip, int r) {
    const int half = LANE_ROWS / 2;
    return r < half ? strip.first + r * strip.row : strip.second + (r - half) * strip.row;
}

/* sums[r, v] (+)= strip[r] . X[:, v] for LANE_ROWS x `vectors`, over `depth` words. `ahead` are rows
 * to fetch, a line of each while a line of the strip is used up. */
INLINE void lane_tile(const int vectors, long depth, Strip strip, const vec *X, long ldx, vec *sums,
                      int more, const int words, Strip ahead, const long per_line) {
    vec sum[LANE_ROWS][LANE_VECTORS];
    for (int r = 0; r < LANE_ROWS; r++)
        for (int v = 0; v < vectors; v++) sum[r][v] = more ? sums[r * ldx + v] : (vec){0};
    for (long line = 0; line * per_line < depth; line++) {
        if (ahead.row)
            for (int r = 0; r < LANE_ROWS; r++) fetch_line(strip_row(ahead, r) + line * LINE);
        const long end = (line + 1) * per_line < depth ? (line + 1) * per_line : depth;
        for (long k = line * per_line; k < end; k++) {
            vec x[LANE_VECTORS];
            for (int v = 0; v < vectors; v++) x[v] = X[k * ldx + v];
            for (int r = 0; r < LANE_ROWS; r++) {
                const vec w = spread((const float *)strip_row(strip, r) + k);
                for (int v = 0; v < vectors; v++) sum[r][v] = multiply_add(sum[r][v], w, x[v], words);
            }
        }
    }
    for (int r = 0; r < LANE_ROWS; r++)
        for (int v = 0; v < vectors; v++) sums[r * ldx + v] = sum[r][v];
}

/* `numbers` of each row of a strip from `start` on, as floats. */
INLINE Strip widen(Strip strip, long start, long numbers, float *wide) {
    for (int r = 0; r < LANE_ROWS; r++)
        for (long i = 0; i < numbers; i += LANES)
            *(vec *)(wide + r * CHUNK + i) = load(strip_row(strip, r), start + i, 1);
    return (Strip){(char *)wide, (char *)(wide + LANE_ROWS / 2 * CHUNK), CHUNK * sizeof *wide};
}

/* sums [LANE_ROWS, vectors] of a strip's rows with X [words, vectors]: rows of x as lanes. */
INLINE void lanes(long vectors, long numbers, const vec *X, Strip strip, Strip ahead, vec *sums,
                  float *wide, const int kind) {
    const long size = number_size(kind), per_word = kind == WORDS ? 2 : 1;
    const long groups = (vectors + LANE_VECTORS - 1) / LANE_VECTORS;
    for (long start = 0; start < numbers; start += CHUNK) {
        const long count = numbers - start < CHUNK ? numbers - start : CHUNK;
        const long offset = start * size;
        Strip part = {strip.first + offset, strip.second + offset, strip.row};
        if (kind == HALVES) part = widen(strip, start, count, wide);
        for (long g = 0; g < groups; g++) {
            const long v = vectors * g / groups;
            const vec *x = X + start / per_word * vectors + v;
            const Strip next = {ahead.first + offset, ahead.second + offset, g ? 0 : ahead.row};
#define TILE(V) \
    case V: lane_tile(V, count / per_word, part, x, vectors, sums + v, start > 0, kind == WORDS, \
                      next, LINE / size / per_word); break;
            switch (vectors * (g + 1) / groups - v) { TILE(1) TILE(2) TILE(3) }
        }
    }
}

#endif
