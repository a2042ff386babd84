/* SwiGLU experts large for their rows on a CPU, forward: fp32, or bf16 with a unit for it or without.
 *
 * Threads share blocks of an expert's rows, not columns: each takes the next block, and no two write
 * to the same place. A block's rows go to slots of their own, and every token's slots are added in
 * their order at the end, so that equal inputs give equal bits for any number of threads.
 *
 * Letters: N tokens, K slots a token, E experts, H hidden size, I expert width, J = 2I, M rows.
 */
#include "threads.h"
#include "wide.h"

int emo_sort_slots(long slots, long E, const int64_t *ids, int32_t *order, int32_t *offsets);

/* Rows of a block up to which sums along vectors are faster, as measured. */
#define MOST_DOTS 12
INLINE long most_dots(const int kind) {
    if (LANES < 16) return kind == FLOATS ? 3 : 6;
    return kind == FLOATS ? 6 : kind == HALVES ? 8 : MOST_DOTS;
}

/* A thread's memory: floats for a block of rows. */
typedef struct {
    float *rows;    /* [BLOCK, H], x and later y */
    float *columns; /* [H, BLOCK], the same, a lane a row */
    float *h;       /* [few, J] */
    float *a;       /* [BLOCK, I] or [I, BLOCK] */
    float *sums, *wide;
    long expert, first; /* whose blocks are worked off, and which of all blocks is its first */
} Memory;

typedef struct {
    long N, K, E, H, I;
    int kind;
    const char *x, *w13, *w2;
    const float *gate;
    const int64_t *ids; /* [N, K] */
    char *out;          /* [N, H] in the dtype of x */
    int32_t *order, *offsets;
    float *slots;  /* [N * K, H] */
    Memory *memory; /* of each thread */
} Layer;

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

/* Number `piece` of all blocks. Team experts, the last ids, have most rows: taken first, no thread
 * waits for them. */
INLINE void block_number(const Layer *l, long piece, Memory *memory, const int kind) {
    while (piece >= memory->first + blocks_of(l, memory->expert))
        memory->first += blocks_of(l, memory->expert--);
    const long e = memory->expert, from = start_of_block(l, e, piece - memory->first);
    const long to = start_of_block(l, e, piece - memory->first + 1);
    block(l, e, l->order + l->offsets[e] + from, to - from, *memory, kind);
}

static void take_block(void *layer, long piece, long thread) {
    const Layer *l = layer;
    Memory *memory = l->memory + thread;
    if (l->kind == FLOATS) block_number(l, piece, memory, FLOATS);
#if HALF_PRODUCTS
    else if (l->kind == WORDS) block_number(l, piece, memory, WORDS);
#endif
    else block_number(l, piece, memory, HALVES);
}

/* A token's slots, in their order, without those that no expert took. */
static void add_slots(void *layer, long n, long thread) {
    const Layer *l = layer;
    (void)thread;
    for (long i = 0; i < l->H; i += LANES) {
        vec sum = {0};
        for (long s = n * l->K; s < (n + 1) * l->K; s++)
            if (l->ids[s] >= 0 && l->ids[s] < l->E) sum += *(const vec *)(l->slots + s * l->H + i);
        store(l->out, n * l->H + i, sum, l->kind != FLOATS);
    }
}

/* Memory of so many threads; NULL if there is none. */
static float *memories(Layer *l, long threads, Memory *memory) {
    long numbers;
    divide(NULL, l, &numbers);
    float *floats = aligned_alloc(64, threads * numbers * sizeof *floats);
    for (long t = 0; floats && t < threads; t++) {
        memory[t] = divide(floats + t * numbers, l, &numbers);
        memory[t].expert = l->E - 1, memory[t].first = 0;
    }
    l->memory = memory;
    return floats;
}

/* out [N, H]; H and I are multiples of 32, x, w13, w2 and out of one dtype. Ids outside 0..E-1 drop
 * their slot. */
int emo_wide_forward(long pool, long threads, long N, long K, long E, long H, long I, long kind,
                     const char *x, const char *w13, const char *w2, const float *gate,
                     const int64_t *ids, char *out) {
    Layer layer = {N, K, E, H, I, (int)kind, x, w13, w2, gate, ids, out};
    Memory memory[MOST_THREADS];
    layer.order = malloc((N * K + E + 1) * sizeof *layer.order);
    layer.slots = aligned_alloc(64, (N * K * H + 16) * sizeof *layer.slots);
    float *floats = memories(&layer, useful_threads(threads, N * K), memory);
    const int failed = !layer.order || !layer.slots || !floats;
    if (!failed) {
        layer.offsets = layer.order + N * K;
        emo_sort_slots(N * K, E, ids, layer.order, layer.offsets);
        long blocks = 0;
        for (long e = 0; e < E; e++) blocks += blocks_of(&layer, e);
        on_threads(pool, threads, blocks, take_block, &layer);
        on_threads(pool, N > LANES ? threads : 1, N, add_slots, &layer);
    }
    free(layer.order);
    free(layer.slots);
    free(floats);
    return failed;
}
