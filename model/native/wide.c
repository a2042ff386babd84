/* SwiGLU experts large for their rows on a CPU, forward: fp32, or bf16 with a unit for it or without.
 *
 * Threads share blocks of an expert's rows, not columns: each takes the next block, and no two write
 * to the same place. A block's rows go to slots of their own, and every token's slots are added in
 * their order at the end, so that equal inputs give equal bits for any number of threads.
 *
 * Letters: N tokens, K slots a token, E experts, H hidden size, I expert width, J = 2I, M rows.
 */
#include "wide.h"

#include <pthread.h>
#include <stdatomic.h>

#define MOST_THREADS 64

int emo_sort_slots(long slots, long E, const int64_t *ids, int32_t *order, int32_t *offsets);

/* Rows of a block up to which sums along vectors are faster, as measured. */
#define MOST_DOTS 12
INLINE long most_dots(const int kind) {
    if (LANES < 16) return kind == FLOATS ? 3 : 6;
    return kind == FLOATS ? 6 : kind == HALVES ? 8 : MOST_DOTS;
}

typedef struct {
    long N, K, E, H, I;
    int kind;
    const char *x, *w13, *w2;
    const float *gate;
    const int64_t *ids; /* [N, K] */
    char *out;          /* [N, H] in the dtype of x */
    int32_t *order, *offsets;
    float *slots; /* [N * K, H] */
    atomic_long block, token;
    atomic_int failed;
    void (*work)(void *); /* of threads that are started */
} Layer;

/* A thread's memory: floats for a block of rows. */
typedef struct {
    float *rows;    /* [BLOCK, H], x and later y */
    float *columns; /* [H, BLOCK], the same, a lane a row */
    float *h;       /* [few, J] */
    float *a;       /* [BLOCK, I] or [I, BLOCK] */
    float *sums, *wide;
} Memory;

/* AMX is for a library; short vectors gain nothing over one. */
int emo_has_wide(long half) {
#if defined(__AMX_BF16__)
    if (half) return 0;
#endif
    (void)half;
    return LANES >= 8;
}

/* How weights are best multiplied, bf16 ones as words or as floats. */
int emo_wide_kind(long half) { return !half ? FLOATS : HALF_PRODUCTS_GAIN ? WORDS : HALVES; }

/* A block's rows of x, as floats, which lie apart for HALVES, or as words. */
INLINE void gather(const Layer *l, long M, const int32_t *order, float *rows, const int kind) {
    const long size = number_size(kind);
    for (long m = 0; m < M; m++) {
        const char *from = l->x + order[m] / l->K * l->H * size;
        if (kind != HALVES) memcpy((char *)rows + m * l->H * size, from, l->H * size);
        else
            for (long v = 0; v < l->H / LANES; v++)
                *(vec *)(rows + m * l->H + v * LANES) = floats_at(from, v / 2, v % 2);
    }
}

INLINE vec swiglu(vec gate, vec up) { return gate * vec_sigmoid(gate) * up; }

/* Few rows of an expert: sums along vectors. */
INLINE void few_rows(const Layer *l, const char *w13, const char *w2, const int32_t *order, long M,
                     Memory memory, const int kind) {
    const long H = l->H, I = l->I, J = 2 * I;
    gather(l, M, order, memory.rows, kind);
    dots(M, J, H, memory.rows, w13, memory.h, kind);
    for (long m = 0; m < M; m++)
        for (long i = 0; i < I; i += LANES) {
            const float *h = memory.h + m * J + i;
            const vec a = swiglu(*(vec *)h, *(vec *)(h + I)) * l->gate[order[m]];
            if (kind != HALVES) store(memory.a, m * I + i, a, kind == WORDS);
            else
                for (int lane = 0; lane < LANES; lane++)
                    memory.a[m * I + place(i + lane)] = a[lane];
        }
    dots(M, H, I, memory.a, w2, memory.rows, kind);
}

/* Words of two bf16 each, `low` in the lower halves. */
INLINE vec in_words(vec low, vec high) {
    return (vec)((rounded(low) >> 16) | (rounded(high) & 0xffff0000));
}

/* A strip's activations times the gates of the lanes, to rows i on of a [I, vectors]. */
INLINE void activate(const vec *sums, long vectors, const vec *gate, long i, vec *a,
                     const int kind) {
    const long up = LANE_ROWS / 2 * vectors;
    const int step = kind == WORDS ? 2 : 1;
    for (int r = 0; r < LANE_ROWS / 2; r += step)
        for (long v = 0; v < vectors; v++) {
            const vec *at = sums + r * vectors + v;
            vec x = swiglu(at[0], at[up]) * gate[v];
            if (kind == WORDS) x = in_words(x, swiglu(at[vectors], at[up + vectors]) * gate[v]);
            a[(kind == HALVES ? place(i + r) : (i + r) / step) * vectors + v] = x;
        }
}

/* More rows of an expert: a lane a row, the last of them idle. */
INLINE void many_rows(const Layer *l, const char *w13, const char *w2, const int32_t *order, long M,
                      Memory memory, const int kind) {
    const long H = l->H, I = l->I, row = H * number_size(kind), down = I * number_size(kind);
    const long vectors = (M + LANES - 1) / LANES, padded = vectors * LANES;
    const long per_word = kind == WORDS ? 2 : 1, half = LANE_ROWS / 2;
    float gate[BLOCK] = {0};
    for (long m = 0; m < M; m++) gate[m] = l->gate[order[m]];
    gather(l, M, order, memory.rows, kind);
    memset(memory.rows + M * H / per_word, 0, (padded - M) * H / per_word * sizeof(float));
    transpose(padded, H / per_word, memory.rows, memory.columns);
    vec *sums = (vec *)memory.sums, *a = (vec *)memory.a, *y = (vec *)memory.columns;
    int turn = 0;
    for (long i = 0; i < I; i += half) {
        const char *w = w13 + i * row, *next = w + (i + half < I) * half * row;
        const Strip strip = {w, w + I * row, row}, ahead = {next, next + I * row, row};
        if (!i && kind == HALVES) widen_steps(strip, 0, share_of(H) / STEP, memory.wide);
        lanes(vectors, H, y, strip, ahead, sums, memory.wide, &turn, kind);
        activate(sums, vectors, (vec *)gate, i, a, kind);
    }
    turn = 0;
    for (long n = 0; n < H; n += LANE_ROWS) {
        const char *w = w2 + n * down, *next = w + (n + LANE_ROWS < H) * LANE_ROWS * down;
        const Strip strip = {w, w + half * down, down}, ahead = {next, next + half * down, down};
        if (!n && kind == HALVES) widen_steps(strip, 0, share_of(I) / STEP, memory.wide);
        lanes(vectors, I, a, strip, ahead, y + n * vectors, memory.wide, &turn, kind);
    }
    transpose(H, padded, memory.columns, memory.rows);
}

/* One block of an expert's rows, to their slots. */
INLINE void block(const Layer *l, long e, const int32_t *order, long M, Memory memory,
                  const int kind) {
    const long H = l->H, matrix = l->I * H * number_size(kind);
    const char *w13 = l->w13 + e * 2 * matrix, *w2 = l->w2 + e * matrix;
    /* Of few rows, words of two bf16 are faster everywhere: there are half as many to load. */
    const int words = HALF_PRODUCTS && kind == HALVES ? WORDS : kind;
    if (M <= most_dots(kind)) few_rows(l, w13, w2, order, M, memory, words);
    else many_rows(l, w13, w2, order, M, memory, kind);
    for (long m = 0; m < M; m++)
        memcpy(l->slots + order[m] * H, memory.rows + m * H, H * sizeof(float));
}

/* `count` floats after the first `used`, which grow by them. */
static float *take(float *memory, long *used, long count) {
    float *at = memory ? memory + *used : NULL;
    *used += (count + 15) / 16 * 16;
    return at;
}

static Memory divide(float *memory, const Layer *l, long *used) {
    *used = 0;
    Memory m;
    m.rows = take(memory, used, BLOCK * l->H);
    m.columns = take(memory, used, BLOCK * l->H);
    m.h = take(memory, used, MOST_DOTS * 2 * l->I);
    m.a = take(memory, used, BLOCK * l->I);
    m.sums = take(memory, used, LANE_ROWS * BLOCK);
    m.wide = take(memory, used, 2 * LANE_ROWS * CHUNK);
    return m;
}

INLINE long rows_of(const Layer *l, long e) { return l->offsets[e + 1] - l->offsets[e]; }

/* Blocks of an expert's rows, as even as whole vectors can be. */
INLINE long blocks_of(const Layer *l, long e) { return (rows_of(l, e) + BLOCK - 1) / BLOCK; }

INLINE long start_of_block(const Layer *l, long e, long b) {
    const long rows = rows_of(l, e), vectors = (rows + LANES - 1) / LANES;
    const long start = vectors * b / blocks_of(l, e) * LANES;
    return start < rows ? start : rows;
}

INLINE void experts(Layer *l, const int kind) {
    long numbers;
    divide(NULL, l, &numbers);
    float *floats = aligned_alloc(64, numbers * sizeof *floats);
    if (!floats) {
        atomic_store(&l->failed, 1);
        return;
    }
    const Memory memory = divide(floats, l, &numbers);
    /* Shared experts, the last ids, have most rows: taken first, no thread waits for them. */
    long e = l->E - 1, first = 0;
    for (;;) {
        const long taken = atomic_fetch_add(&l->block, 1);
        while (e >= 0 && taken >= first + blocks_of(l, e)) first += blocks_of(l, e--);
        if (e < 0) break;
        const long from = start_of_block(l, e, taken - first);
        const long to = start_of_block(l, e, taken - first + 1);
        block(l, e, l->order + l->offsets[e] + from, to - from, memory, kind);
    }
    free(floats);
}

static void take_blocks(void *layer) {
    Layer *l = layer;
    if (l->kind == FLOATS) experts(l, FLOATS);
#if HALF_PRODUCTS
    else if (l->kind == WORDS) experts(l, WORDS);
#endif
    else experts(l, HALVES);
}

/* Every token's slots, in their order, without those that no expert took. A token at a time. */
static void add_slots(void *layer) {
    Layer *l = layer;
    for (long n; (n = atomic_fetch_add(&l->token, 1)) < l->N;)
        for (long i = 0; i < l->H; i += LANES) {
            vec sum = {0};
            for (long s = n * l->K; s < (n + 1) * l->K; s++)
                if (l->ids[s] >= 0 && l->ids[s] < l->E) sum += *(const vec *)(l->slots + s * l->H + i);
            store(l->out, n * l->H + i, sum, l->kind != FLOATS);
        }
}

typedef void Pool(void (*work)(void *), void *layer, unsigned threads, unsigned flags);

static void *start(void *layer) {
    Layer *l = layer;
    l->work(l);
    return NULL;
}

/* Work of `threads`, this one among them. The pool's spin for a while after each of torch's
 * operations, and would compete with others; where there is no pool, new ones are started, fewer if
 * the system has no more. */
static void share(Pool *pool, long threads, void (*work)(void *), Layer *layer) {
    if (pool && threads > 1) {
        pool(work, layer, (unsigned)threads, 0);
        return;
    }
    pthread_t started[MOST_THREADS];
    long running = 0;
    layer->work = work;
    for (; running < threads - 1 && running < MOST_THREADS; running++)
        if (pthread_create(&started[running], NULL, start, layer)) break;
    work(layer);
    for (long t = 0; t < running; t++) pthread_join(started[t], NULL);
}

/* out [N, H]; H and I are multiples of 32, x, w13, w2 and out of one dtype. Ids outside 0..E-1 drop
 * their slot. `pool` is the address of OpenMP's GOMP_parallel, or 0. */
int emo_wide_forward(long pool, long threads, long N, long K, long E, long H, long I, long kind,
                     const char *x, const char *w13, const char *w2, const float *gate,
                     const int64_t *ids, char *out) {
    Layer layer = {N, K, E, H, I, (int)kind, x, w13, w2, gate, ids, out};
    Pool *run = (Pool *)pool;
    layer.order = malloc((N * K + E + 1) * sizeof *layer.order);
    layer.slots = aligned_alloc(64, (N * K * H + 16) * sizeof *layer.slots);
    if (layer.order && layer.slots) {
        layer.offsets = layer.order + N * K;
        emo_sort_slots(N * K, E, ids, layer.order, layer.offsets);
        share(run, threads, take_blocks, &layer);
        share(run, N > LANES ? threads : 1, add_slots, &layer);
    }
    const int failed = !layer.order || !layer.slots || atomic_load(&layer.failed);
    free(layer.order);
    free(layer.slots);
    return failed;
}
