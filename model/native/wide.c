/* SwiGLU experts larger than the cache on a CPU, forward: fp32, or bf16 with or without a unit for it.
 *
 * Threads share experts, not columns: each takes the next expert with rows, and no two write to the
 * same place. An expert's rows go to slots of their own, and every token's slots are added in their
 * order at the end, so that equal inputs give equal bits for any number of threads.
 *
 * Weights are read once, as transformers stores them: rows of w13 [E, J, H] (gate over up) and of
 * w2 [E, H, I] are the vectors that rows of x are multiplied with. Without a bf16 unit, four rows of
 * weights at a time are widened to floats in the nearest cache; with one, a word is two bf16.
 *
 * Letters: N tokens, K slots a token, E experts, H hidden size, I expert width, J = 2I, M rows.
 */
#include "simd.h"

#include <pthread.h>
#include <stdatomic.h>

#if LANES == 16
#define DOT_ROWS 6
#else
#define DOT_ROWS 3
#endif
#define DOT_COLUMNS 4
#define BLOCK 64
#define MOST_THREADS 64

typedef struct {
    long N, K, E, H, I;
    int half;
    const char *x, *w13, *w2;
    const float *gate;
    const int32_t *order, *offsets;
    float *slots; /* [N * K, H] */
    char *out;    /* [N, H] in the dtype of x */
    atomic_long expert;
    atomic_int failed;
} Layer;

/* Whether bf16 numbers go into products as they are; else they are widened to floats. */
INLINE int as_words(int half) { return half && HALF_PRODUCTS; }

/* AMX is for a library; short vectors gain nothing over one. */
int emo_has_wide(long half) {
#if defined(__AMX_BF16__)
    if (half) return 0;
#endif
    (void)half;
    return LANES >= 8;
}

/* C[m, n] = A[m] . B[n] of `rows` x DOT_COLUMNS; the next rows of weights are fetched meanwhile. */
INLINE void dot_tile(const int rows, long depth, const vec *A, const vec *B, float *C, long ldc,
                     const int words, const char *ahead, long lines) {
    vec sum[DOT_ROWS][DOT_COLUMNS] = {0};
    for (long k = 0; k < depth; k++) {
        vec b[DOT_COLUMNS];
        for (int n = 0; n < DOT_COLUMNS; n++) b[n] = B[n * depth + k];
        for (long line = k * lines; line < (k + 1) * lines; line++) fetch_line(ahead + line * LINE);
        for (int m = 0; m < rows; m++) {
            const vec a = A[m * depth + k];
            for (int n = 0; n < DOT_COLUMNS; n++) sum[m][n] = multiply_add(sum[m][n], a, b[n], words);
        }
    }
    for (int m = 0; m < rows; m++)
        for (int n = 0; n < DOT_COLUMNS; n++) C[m * ldc + n] = sum_lanes(sum[m][n]);
}

/* A [M, depth] times four rows of B, in tiles of rows; the first tile fetches what follows B. */
INLINE void strip(long M, long depth, const vec *A, const vec *B, float *C, long ldc,
                  const int words, const char *ahead, long lines) {
    const long tiles = (M + DOT_ROWS - 1) / DOT_ROWS;
    for (long t = 0; t < tiles; t++, lines = 0) {
        const long m = M * t / tiles, rows = M * (t + 1) / tiles - m;
        const vec *a = A + m * depth;
        float *c = C + m * ldc;
#define DOTS(R) \
    case R: dot_tile(R, depth, a, B, c, ldc, words, ahead, lines); break;
        switch (rows) {
            DOTS(1) DOTS(2) DOTS(3)
#if DOT_ROWS > 3
            DOTS(4) DOTS(5) DOTS(6)
#endif
        }
    }
}

/* C [M, columns] = A B^T for B [columns, numbers]; `wide` holds four rows of B as floats. */
INLINE void dots(long M, long columns, long numbers, const float *A, const char *B, float *C,
                 float *wide, const int half) {
    const int words = as_words(half), widened = half && !words;
    const long row = numbers * (half ? 2 : 4), depth = words ? row / sizeof(vec) : numbers / LANES;
    /* Lines of the next strip that each step of the sum fetches, at least all of them together. */
    const long lines = (DOT_COLUMNS * row / LINE + depth - 1) / depth;
    for (long n = 0; n < columns; n += DOT_COLUMNS) {
        const char *b = B + n * row, *ahead = b + DOT_COLUMNS * row;
        if (widened)
            for (long i = 0; i < DOT_COLUMNS * numbers; i += LANES) *(vec *)(wide + i) = load(b, i, 1);
        strip(M, depth, (const vec *)A, (const vec *)(widened ? (const char *)wide : b), C + n, columns,
              words, ahead, lines);
    }
}

/* Numbers as `dots` takes them on its left: floats, or words of two bf16. */
INLINE void to_operand(long count, const float *in, float *out, const int words) {
    for (long i = 0; i < count; i += LANES) {
        if (words) store(out, i, *(const vec *)(in + i), 1);
        else *(vec *)(out + i) = *(const vec *)(in + i);
    }
}

INLINE void gather(const Layer *l, long M, const int32_t *order, float *rows, const int half) {
    const int words = as_words(half);
    for (long m = 0; m < M; m++) {
        const char *from = l->x + order[m] / l->K * l->H * (half ? 2 : 4);
        if (words || !half) memcpy((char *)rows + m * l->H * (half ? 2 : 4), from, l->H * (half ? 2 : 4));
        else
            for (long i = 0; i < l->H; i += LANES) *(vec *)(rows + m * l->H + i) = load(from, i, 1);
    }
}

/* One block of an expert's rows, to their slots. memory: rows, h, activation, y, operand, strip. */
INLINE void block(const Layer *l, long e, const int32_t *order, long M, float *memory,
                  const int half) {
    const long H = l->H, I = l->I, J = 2 * I, size = half ? 2 : 4;
    float *rows = memory, *h = rows + BLOCK * H, *a = h + BLOCK * J, *y = a + BLOCK * I;
    float *operand = y + BLOCK * H, *wide = operand + BLOCK * I;
    gather(l, M, order, rows, half);
    dots(M, J, H, rows, l->w13 + e * J * H * size, h, wide, half);
    for (long m = 0; m < M; m++)
        for (long i = 0; i < I; i += LANES) {
            const vec g = *(vec *)(h + m * J + i), u = *(vec *)(h + m * J + I + i);
            *(vec *)(a + m * I + i) = g * vec_sigmoid(g) * u * l->gate[order[m]];
        }
    to_operand(M * I, a, operand, as_words(half));
    dots(M, H, I, operand, l->w2 + e * H * I * size, y, wide, half);
    for (long m = 0; m < M; m++)
        memcpy(l->slots + order[m] * H, y + m * H, H * sizeof *y);
}

INLINE void experts(Layer *l, const int half) {
    const long most = l->H > l->I ? l->H : l->I;
    const long numbers = BLOCK * (2 * l->H + 4 * l->I) + DOT_COLUMNS * most;
    float *memory = aligned_alloc(64, (numbers * sizeof *memory + 63) / 64 * 64);
    if (!memory) {
        atomic_store(&l->failed, 1);
        return;
    }
    /* Shared experts, the last ids, have most rows: taken first, no thread waits for them. */
    for (long e; (e = l->E - 1 - atomic_fetch_add(&l->expert, 1)) >= 0;)
        for (long p = l->offsets[e]; p < l->offsets[e + 1]; p += BLOCK) {
            const long left = l->offsets[e + 1] - p;
            block(l, e, l->order + p, left < BLOCK ? left : BLOCK, memory, half);
        }
    free(memory);
}

static void *work(void *layer) {
    Layer *l = layer;
    if (l->half) experts(l, 1);
    else experts(l, 0);
    return NULL;
}

/* Every token's slots, in their order; a slot that no expert took is zero. */
static void add_slots(const Layer *l) {
    for (long n = 0; n < l->N; n++)
        for (long i = 0; i < l->H; i += LANES) {
            vec sum = {0};
            for (long k = 0; k < l->K; k++)
                sum += *(const vec *)(l->slots + (n * l->K + k) * l->H + i);
            store(l->out, n * l->H + i, sum, l->half);
        }
}

/* out [N, H]; H and I are multiples of 32, x, w13, w2 and out of one dtype, slots [N * K, H] zeros
 * where a slot is dropped. Starts at most threads - 1 threads and waits for them. */
int emo_wide_forward(long threads, long N, long K, long E, long H, long I, long half, const char *x,
                     const char *w13, const char *w2, const float *gate, const int32_t *order,
                     const int32_t *offsets, float *slots, char *out) {
    Layer layer = {N, K, E, H, I, (int)half, x, w13, w2, gate, order, offsets, slots, out,
                   0, 0};
    pthread_t started[MOST_THREADS];
    long running = 0;
    for (; running < threads - 1 && running < MOST_THREADS; running++)
        if (pthread_create(&started[running], NULL, work, &layer)) break;
    work(&layer);
    for (long t = 0; t < running; t++) pthread_join(started[t], NULL);
    if (atomic_load(&layer.failed)) return 1;
    add_slots(&layer);
    return 0;
}
