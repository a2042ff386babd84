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
 * which the processor multiplies. Floats of HALVES lie apart: of every PAIRS numbers first those that
 * are the lower halves of words, then the upper ones, so that one instruction widens LANES of them. */
enum { FLOATS, HALVES, WORDS };
#define PAIRS (2 * LANES)

#if LANES == 16
#define DOT_ROWS 6
#define LANE_ROWS 8
#else
#define DOT_ROWS 3
#define LANE_ROWS 4
#endif
#define DOT_COLUMNS 4
#define AHEAD 1024 /* bytes from a number that is multiplied to the one that is fetched */
#define MOST_COLUMNS 8 /* of a single row: memory answers more streams faster */
#define LANE_VECTORS 3
#define CHUNK 512 /* numbers of a row of weights at a time: LANE_ROWS of them fit the nearest cache */
#define STEP 16 /* words of a row between two lines to fetch */
#define PIECES (LANE_ROWS * STEP / LANES)
#define BLOCK (2 * LANE_VECTORS * LANES)

INLINE long number_size(const int kind) { return kind == FLOATS ? 4 : 2; }

/* Where the floats of HALVES have number i. */
INLINE long place(long i) { return i / PAIRS * PAIRS + i % 2 * LANES + i % PAIRS / 2; }

/* Vector k of a row of words as floats: the lower halves or the upper. */
INLINE vec floats_at(const char *row, long k, const int upper) {
    const uvec words = *(const uvec *)(row + k * sizeof(uvec));
    return upper ? (vec)(words & 0xffff0000) : (vec)(words << 16);
}

/* C[m, n * apart] = A[m] . B[n * apart] of `rows` x `columns`; with `fetch` a little later numbers of
 * each row of weights are asked for meanwhile, and beyond its end those of the row below. */
INLINE void dot_tile(const int rows, const int columns, long row, long apart, const vec *A,
                     const char *B, float *C, long ldc, const int kind, const int fetch) {
    const int parts = kind == HALVES ? 2 : 1;
    vec sum[DOT_ROWS][MOST_COLUMNS] = {0};
    for (long at = 0; at < row; at += sizeof(vec)) {
        if (fetch && at % LINE == 0)
            for (int n = 0; n < columns; n++) fetch_near(B + n * apart * row + at + AHEAD);
        for (int part = 0; part < parts; part++) {
            vec b[MOST_COLUMNS];
            for (int n = 0; n < columns; n++) {
                const char *from = B + n * apart * row + at;
                b[n] = kind == HALVES ? floats_at(from, 0, part) : *(const vec *)from;
            }
            for (int m = 0; m < rows; m++) {
                const vec a = *(const vec *)((const char *)A + m * row * parts + at * parts +
                                             part * sizeof(vec));
                for (int n = 0; n < columns; n++)
                    sum[m][n] = multiply_add(sum[m][n], a, b[n], kind == WORDS);
            }
        }
    }
    for (int m = 0; m < rows; m++)
        for (int n = 0; n < columns; n += 4) {
            float four[4];
            sum_four(sum[m] + n, four);
            for (int i = 0; i < 4; i++) C[m * ldc + (n + i) * apart] = four[i];
        }
}

/* C [M, columns] = A B^T for B [columns, numbers]. Rows of weights that are multiplied at the same
 * time lie far apart, each followed by the one that is next: streams that the processor knows. */
INLINE void dots(long M, long columns, long numbers, const float *A, const char *B, float *C,
                 const int kind) {
    const long row = numbers * number_size(kind), tiles = (M + DOT_ROWS - 1) / DOT_ROWS;
    const long row_of_a = kind == WORDS ? numbers / 2 : numbers;
    const long apart = columns / (M == 1 ? MOST_COLUMNS : DOT_COLUMNS);
    for (long n = 0; n < apart; n++)
        for (long t = 0; t < tiles; t++) {
            const long m = M * t / tiles, rows = M * (t + 1) / tiles - m;
            const vec *a = (const vec *)(A + m * row_of_a);
            const char *b = B + n * row;
            float *c = C + m * columns + n;
#define DOTS(R, N, FETCH) dot_tile(R, N, row, apart, a, b, c, columns, kind, FETCH)
#define CASE_OF(R) \
    case R: t ? DOTS(R, DOT_COLUMNS, 0) : DOTS(R, DOT_COLUMNS, 1); break;
            switch (M == 1 ? 0 : rows) {
                case 0: DOTS(1, MOST_COLUMNS, 1); break;
                CASE_OF(1) CASE_OF(2) CASE_OF(3)
#if DOT_ROWS > 3
                CASE_OF(4) CASE_OF(5) CASE_OF(6)
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

/* What a tile does beside its products, a piece a step: fetch lines of the rows `ahead`, and put
 * numbers of the rows `coming` as floats to `wide`. Nothing where a row has no bytes. */
typedef struct {
    Strip ahead, coming;
    float *wide;
} Aside;

/* LANES numbers of a strip as floats: piece p of step s. Of two steps the first widens the numbers of
 * both in the first half of the rows, the second in the other, since words hold neighbours. */
INLINE void widen(Strip strip, long s, int p, float *wide) {
    const long vectors = 2 * STEP / LANES, r = p / vectors, v = s / 2 * vectors + p % vectors;
    const char *row = (s % 2 ? strip.second : strip.first) + r * strip.row;
    float *to = wide + (s % 2 * (LANE_ROWS / 2) + r) * CHUNK + v * LANES;
    *(vec *)to = floats_at(row, v / 2, v % 2);
}

/* sums[r, v] (+)= strip[r] . X[:, v] for LANE_ROWS x `vectors`, over `depth` words. */
INLINE void lane_tile(const int vectors, long depth, Strip strip, const vec *X, long ldx, vec *sums,
                      int more, const int kind, Aside aside) {
    vec sum[LANE_ROWS][LANE_VECTORS] = {0};
    for (long s = 0; s < depth / STEP; s++) {
#pragma GCC unroll 16
        for (int k = 0; k < STEP; k++) {
            const int p = k * PIECES / STEP, r = p * LANES / STEP;
            const int first = k % (STEP / PIECES) == 0;
            const long line = kind == HALVES ? s * LINE / 2 : s * LINE;
            if (first && p * LANES % STEP == 0 && aside.ahead.row)
                fetch_line(strip_row(aside.ahead, r) + line);
            if (first && kind == HALVES && aside.coming.row) widen(aside.coming, s, p, aside.wide);
            vec x[LANE_VECTORS];
            for (int v = 0; v < vectors; v++) x[v] = X[v];
            X += ldx;
            for (int r = 0; r < LANE_ROWS; r++) {
                const vec w = spread((const float *)strip_row(strip, r) + s * STEP + k);
                for (int v = 0; v < vectors; v++)
                    sum[r][v] = multiply_add(sum[r][v], w, x[v], kind == WORDS);
            }
        }
    }
    /* Shares are added as wholes: a long sum loses less. */
    for (int r = 0; r < LANE_ROWS; r++)
        for (int v = 0; v < vectors; v++) {
            vec *to = sums + r * ldx + v;
            *to = more ? (vec)(*to + sum[r][v]) : (vec)sum[r][v];
        }
}

INLINE Strip onward(Strip strip, long bytes) {
    return (Strip){strip.first + bytes, strip.second + bytes, strip.row};
}

/* Steps `from` to `to` of what tiles could not widen beside their products. */
INLINE void widen_steps(Strip strip, long from, long to, float *wide) {
    for (long s = from; s < to; s++)
        for (int p = 0; p < PIECES; p++) widen(strip, s, p, wide);
}

/* Numbers of a row that are taken at a time: even shares, at most CHUNK. */
INLINE long share_of(long numbers) {
    const long shares = (numbers + CHUNK - 1) / CHUNK, unit = 2 * STEP;
    return (numbers + shares * unit - 1) / (shares * unit) * unit;
}

/* sums [LANE_ROWS, vectors] of a strip's rows with X [words, vectors], whose lanes are rows of x.
 * `next` is the strip that follows. wide: two buffers, the one that `turn` names holds the first
 * share of HALVES, and of the next strip afterwards. */
INLINE void lanes(long vectors, long numbers, const vec *X, Strip strip, Strip next, vec *sums,
                  float *wide, int *turn, const int kind) {
    const long size = number_size(kind), per_word = kind == WORDS ? 2 : 1, share = share_of(numbers);
    const long groups = (vectors + LANE_VECTORS - 1) / LANE_VECTORS;
    for (long start = 0; start < numbers; start += share) {
        const long left = numbers - start, count = left < share ? left : share;
        const long after = left - count < share ? left - count : share;
        float *now = wide + *turn * LANE_ROWS * CHUNK, *later = wide + !*turn * LANE_ROWS * CHUNK;
        Strip part = onward(strip, start * size);
        if (kind == HALVES)
            part = (Strip){(char *)now, (char *)(now + LANE_ROWS / 2 * CHUNK), CHUNK * sizeof *now};
        const Strip coming = after ? onward(strip, (start + count) * size) : next;
        for (long g = 0; g < groups; g++) {
            const long v = vectors * g / groups;
            const vec *x = X + start / per_word * vectors + v;
            const Aside aside = {onward(next, start * size), coming, later}, nothing = {0};
#define TILE(V) \
    case V: lane_tile(V, count / per_word, part, x, vectors, sums + v, start > 0, kind, \
                      g ? nothing : aside); break;
            switch (vectors * (g + 1) / groups - v) { TILE(1) TILE(2) TILE(3) }
        }
        if (kind == HALVES) widen_steps(coming, count / STEP, (after ? after : share) / STEP, later);
        *turn = !*turn;
    }
}

#endif
