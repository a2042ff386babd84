/* What the compiled layers share: vectors of LANES floats, small matrix products, exp.
 *
 * The widest vectors of the processor at hand; matrices are row by row, and column counts are
 * multiples of TILE_COLUMNS.
 */
#ifndef EMO_SIMD_H
#define EMO_SIMD_H
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#define LANES 16
#define TILE_ROWS 8
#elif defined(__AVX2__)
#define LANES 8
#define TILE_ROWS 6
#else
#define LANES 4
#define TILE_ROWS 8
#endif
/* bf16 products where nothing faster does them: AMX is for a library. */
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
#define HALF_PRODUCTS 1
#else
#define HALF_PRODUCTS 0
#endif
/* Whether those are faster than products of floats. Intel's processors begin one of them every other
 * cycle and two of floats each cycle, which is twice as many; AMD's are the other way round. */
#if HALF_PRODUCTS
#define HALF_PRODUCTS_GAIN __builtin_cpu_is("amd")
#else
#define HALF_PRODUCTS_GAIN 0
#endif
#define TILE_VECTORS 2
#define TILE_COLUMNS (TILE_VECTORS * LANES)

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
#define INLINE static inline __attribute__((always_inline))

/* sum + a * b, of floats or, with `half`, of both bf16 numbers in a word. */
INLINE vec multiply_add(vec sum, vec a, vec b, const int half) {
#if HALF_PRODUCTS
    if (half) return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#endif
    return sum + a * b;
}

/* One word in all lanes. */
INLINE vec spread(const float *word) {
    uint32_t bits;
    memcpy(&bits, word, sizeof bits);
    return (vec)((uvec){0} + bits);
}

#define LINE 64

/* Cache lines to fetch, `count` of them from number `first` on, `per_row` in each row. */
typedef struct {
    const char *start;
    long row, per_row, first, count;
} Lines;

#define NO_LINES ((Lines){0})

INLINE void fetch_line(const void *at) { __builtin_prefetch(at, 0, 1); }

/* The same of a line that will be written. */
INLINE void claim_line(const void *at) { __builtin_prefetch(at, 1, 1); }

/* The same into the nearest cache. */
INLINE void fetch_near(const void *at) { __builtin_prefetch(at, 0, 3); }

/* C[m, n] (+)= sum_k A[m * a_row + k * a_step] * B[k, n], one tile of `rows` x TILE_COLUMNS; a line
 * of what is ahead is fetched at each k. */
INLINE void tile(const int rows, const float *A, long a_row, long a_step, const float *B, long ldb,
                 float *C, long ldc, long depth, int accumulate, const int half, Lines ahead) {
    vec sum[TILE_ROWS][TILE_VECTORS];
    for (int m = 0; m < rows; m++)
        for (int v = 0; v < TILE_VECTORS; v++)
            sum[m][v] = accumulate ? *(const vec *)(C + m * ldc + v * LANES) : (vec){0};
    for (long k = 0; k < depth; k++) {
        vec b[TILE_VECTORS];
        for (int v = 0; v < TILE_VECTORS; v++) b[v] = *(const vec *)(B + k * ldb + v * LANES);
        if (k < ahead.count) {
            const long line = ahead.first + k;
            fetch_line(ahead.start + line / ahead.per_row * ahead.row + line % ahead.per_row * LINE);
        }
        for (int m = 0; m < rows; m++) {
            const vec a = spread(A + m * a_row + k * a_step);
            for (int v = 0; v < TILE_VECTORS; v++) sum[m][v] = multiply_add(sum[m][v], a, b[v], half);
        }
    }
    for (int m = 0; m < rows; m++)
        for (int v = 0; v < TILE_VECTORS; v++) *(vec *)(C + m * ldc + v * LANES) = sum[m][v];
}

/* One tile of `rows`, a number that the compiler must know. */
INLINE void tile_of(long rows, const float *A, long a_row, long a_step, const float *B, long ldb,
                    float *C, long ldc, long depth, int accumulate, const int half, Lines ahead) {
#define CASE(R) \
    case R: tile(R, A, a_row, a_step, B, ldb, C, ldc, depth, accumulate, half, ahead); break;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if TILE_ROWS > 6
        CASE(7) CASE(8)
#endif
    }
}

/* Rows and weights lie far apart, where no processor guesses the next: they are asked for early. */
INLINE void fetch_bytes(const void *from, long bytes) {
    for (long i = 0; i < bytes; i += LINE) fetch_line((const char *)from + i);
}

/* Rows of `bytes` each, those of `tokens` or, if they are not given, one after the other. */
typedef struct {
    const char *from;
    const int32_t *tokens;
    long bytes, count;
} Ahead;

INLINE const char *row_number(const Ahead *r, long i) {
    return r->from + (r->tokens ? r->tokens[i] : i) * r->bytes;
}

/* C[M, n] (+)= A B; the rows are split evenly, so that no tile is left nearly empty. If there are
 * rows that are needed next, it fetches them meanwhile, tile by tile: all at once they would be
 * waited for. */
INLINE void product_of(long M, long n, long depth, const float *A, long a_row, long a_step,
                       const float *B, long ldb, float *C, long ldc, int accumulate,
                       const int half, const Ahead *ahead) {
    const long tiles = (M + TILE_ROWS - 1) / TILE_ROWS, all = tiles * (n / TILE_COLUMNS);
    long due = 0, row = 0;
    for (long t = 0; t < tiles; t++) {
        const long first = M * t / tiles, rows = M * (t + 1) / tiles - first;
        const float *a = A + first * a_row;
        float *c = C + first * ldc;
        for (long j = 0; j < n; j += TILE_COLUMNS) {
            if (ahead)
                for (due += ahead->count; due >= all; due -= all)
                    fetch_bytes(row_number(ahead, row++), ahead->bytes);
            tile_of(rows, a, a_row, a_step, B + j, ldb, c + j, ldc, depth, accumulate, half,
                    NO_LINES);
        }
    }
}

static void product(long M, long n, long depth, const float *A, long a_row, long a_step,
                    const float *B, long ldb, float *C, long ldc, int accumulate) {
    product_of(M, n, depth, A, a_row, a_step, B, ldb, C, ldc, accumulate, 0, NULL);
}

/* The same for words of two bf16 numbers each, neighbours along the summed axis, of depth/2. */
static void product_half(long M, long n, long depth, const float *A, long a_row, long a_step,
                         const float *B, long ldb, float *C, long ldc, int accumulate) {
    product_of(M, n, depth, A, a_row, a_step, B, ldb, C, ldc, accumulate, 1, NULL);
}

/* LOW and HIGH interleave the lower and the upper halves of two vectors. */
#if LANES == 16
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(a, b) \
    __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif LANES == 8
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#endif

/* A square of LANES rows, `row` words apart, becomes its columns: log2(LANES) rounds of interleaving. */
INLINE void transpose_square(const float *in, long row, vec *a) {
    vec b[LANES];
    for (int i = 0; i < LANES; i++) a[i] = *(const vec *)(in + i * row);
    for (int round = 1; round < LANES; round *= 2) {
        for (int i = 0; i < LANES / 2; i++) {
            b[2 * i] = LOW(a[i], a[i + LANES / 2]);
            b[2 * i + 1] = HIGH(a[i], a[i + LANES / 2]);
        }
        for (int i = 0; i < LANES; i++) a[i] = b[i];
    }
}

/* out[n, m] = in[m, n]. */
static void transpose(long rows, long columns, const float *in, float *out) {
    for (long m = 0; m < rows; m += LANES)
        for (long n = 0; n < columns; n += LANES) {
            vec a[LANES];
            transpose_square(in + m * columns + n, columns, a);
            for (int i = 0; i < LANES; i++) *(vec *)(out + (n + i) * rows + m) = a[i];
        }
}

/* The same of bf16 numbers, as floats: neighbours in a row move as one word. */
static void transpose_widened(long rows, long columns, const void *in, float *out) {
    const long words = columns / 2;
    for (long m = 0; m < rows; m += LANES)
        for (long n = 0; n < words; n += LANES) {
            vec a[LANES];
            transpose_square((const float *)in + m * words + n, words, a);
            for (int i = 0; i < LANES; i++) {
                float *to = out + 2 * (n + i) * rows + m;
                *(uvec *)to = (uvec)a[i] << 16;
                *(uvec *)(to + rows) = (uvec)a[i] & 0xffff0000;
            }
        }
}

/* Each number in a word of its own; compilers spend five instructions on what has one. */
INLINE uvec to_words(hvec x) {
#if LANES == 16
    return (uvec)_mm512_cvtepu16_epi32((__m256i)x);
#elif LANES == 8
    return (uvec)_mm256_cvtepu16_epi32((__m128i)x);
#else
    return __builtin_convertvector(x, uvec);
#endif
}

/* LANES numbers of an array that holds floats or, with `half`, bf16. */
INLINE vec load(const void *from, long i, const int half) {
    if (!half) return *(const vec *)((const float *)from + i);
    const hvec bits = *(const hvec *)((const uint16_t *)from + i);
    return (vec)(to_words(bits) << 16);
}

/* The bits of x, rounded to the nearest bf16, ties to even, in the upper halves of the words. */
INLINE uvec rounded(vec x) {
    const uvec bits = (uvec)x;
    return bits + 0x7fff + ((bits >> 16) & 1);
}

/* The lower halves of words. */
INLINE hvec to_halves(uvec x) {
#if LANES == 16
    return (hvec)_mm512_cvtepi32_epi16((__m512i)x);
#else
    return __builtin_convertvector(x, hvec);
#endif
}

/* The same as `load`, to memory. */
INLINE void store(void *to, long i, vec x, const int half) {
    if (half) *(hvec *)((uint16_t *)to + i) = to_halves(rounded(x) >> 16);
    else *(vec *)((float *)to + i) = x;
}

INLINE uint16_t round_to_half(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

INLINE float sum_lanes(vec x) {
    for (int round = 1; round < LANES; round *= 2) x = LOW(x, x) + HIGH(x, x);
    return x[0];
}

/* Sums of the lanes of each of four vectors. */
INLINE void sum_four(const vec *x, float *sums) {
    const vec a = LOW(x[0], x[1]) + HIGH(x[0], x[1]), b = LOW(x[2], x[3]) + HIGH(x[2], x[3]);
    const vec mixed = LOW(a, b) + HIGH(a, b);
    float in_turn[4] = {0};
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 4; j++) in_turn[j] += mixed[i + j];
    sums[0] = in_turn[0], sums[1] = in_turn[2], sums[2] = in_turn[1], sums[3] = in_turn[3];
}

/* Lane by lane; compilers spend three instructions on what has one. */
INLINE vec choose(ivec mask, vec yes, vec no) {
#if LANES == 8
    return (vec)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)mask);
#else
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
#endif
}

/* The larger of two; b where one is NaN. */
INLINE vec larger(vec a, vec b) {
#if LANES == 16
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b);
#endif
}

/* The smaller of two; b where one is NaN. */
INLINE vec smaller(vec a, vec b) {
#if LANES == 16
    return (vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (vec)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return choose(a < b, a, b);
#endif
}

/* exp, about 1 ulp, of x from -87 to 88: 2^n times a polynomial of the remainder (Cephes'
 * coefficients). A number with `magic` added is rounded to n and ends with the bits of n + 127, which
 * in the exponent's place are 2^n. */
INLINE vec exp_within(vec x) {
    const vec magic = (vec){0} + 12582912.0f + 127.0f;
    const vec shifted = x * 1.44269504f + magic, n = shifted - magic;
    const vec r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return p * (vec)((uvec)shifted << 23);
}

/* The same of any x, which beyond -87 and 88 counts as those. */
INLINE vec vec_exp(vec x) {
    const vec top = (vec){0} + 88.0f, bottom = (vec){0} - 87.0f;
    return exp_within(smaller(top, larger(bottom, x)));
}

/* x becomes exp(x - shift), 0 where that is tiny; returns the sum. No x is above shift + 88. */
INLINE float exponentials(float *x, long n, float shift) {
    const vec bottom = (vec){0} - 87.0f;
    vec total = {0};
    for (long j = 0; j < n; j += LANES) {
        const vec y = *(const vec *)(x + j) - shift;
        const vec p = choose(y < bottom, (vec){0}, exp_within(y));
        *(vec *)(x + j) = p;
        total += p;
    }
    return sum_lanes(total);
}

/* Of numbers, NaN left out; -INFINITY if there is none. Four vectors take turns, since each maximum
 * waits for the one before. */
INLINE float largest(const float *x, long n) {
    vec top[4];
    for (int i = 0; i < 4; i++) top[i] = (vec){0} - INFINITY;
    long j = 0;
    for (; j + 4 * LANES <= n; j += 4 * LANES)
        for (int i = 0; i < 4; i++) top[i] = larger(*(const vec *)(x + j + i * LANES), top[i]);
    for (; j < n; j += LANES) top[0] = larger(*(const vec *)(x + j), top[0]);
    vec best = larger(larger(top[0], top[1]), larger(top[2], top[3]));
    for (int round = 1; round < LANES; round *= 2) best = larger(LOW(best, best), HIGH(best, best));
    return best[0];
}

INLINE vec vec_sigmoid(vec x) { return 1.0f / (1.0f + vec_exp(-x)); }

#endif
