/* SwiGLU experts of one MoE layer on a CPU, fp32, forward and backward.
 *
 * Slots (token, expert) are counting-sorted by expert. The rows of one expert are worked off in
 * blocks that stay in the cache: gather, product, activation, product, add to the token. Every
 * token's sum runs in expert order, so equal inputs give equal bits, whatever other tokens do.
 *
 * Letters: N tokens, K slots a token, E experts, H hidden size, I expert width, J = 2I, M rows.
 * w13 is [E, J, H] (gate over up), w2 [E, H, I], as transformers stores fused experts. H and I are
 * multiples of WIDTH. Expert ids outside 0..E-1 drop their slot.
 */
#include "simd.h"

/* Rows of an expert that are worked off together. Forward, they leave most of the nearest cache to the
 * weights; backward, every block adds to gradients as large as the weights. */
#define FORWARD_BLOCK 16
#define BACKWARD_BLOCK 48
/* Tokens that all experts have worked off before they begin with others: with their sums they stay
 * in the cache of one processor. */
#define TOKENS 2048

/* Slots of expert e are order[offsets[e]] .. order[offsets[e + 1] - 1], in token order. */
int emo_sort_slots(long slots, long E, const int64_t *ids, int32_t *order, int32_t *offsets) {
    memset(offsets, 0, (E + 1) * sizeof *offsets);
    for (long s = 0; s < slots; s++)
        if (ids[s] >= 0 && ids[s] < E) offsets[ids[s] + 1]++;
    for (long e = 0; e < E; e++) offsets[e + 1] += offsets[e];
    for (long s = 0; s < slots; s++)
        if (ids[s] >= 0 && ids[s] < E) order[offsets[ids[s]]++] = (int32_t)s;
    for (long e = E; e > 0; e--) offsets[e] = offsets[e - 1];
    offsets[0] = 0;
    return 0;
}

/* Whether products of bf16 are worth the rounding of their operands. */
int emo_half_gains(void) { return HALF_PRODUCTS_GAIN; }

/* Rows and weights lie far apart, where no processor guesses the next: they are asked for early. */
INLINE void fetch(const void *from, long bytes) {
    for (long i = 0; i < bytes; i += LINE) fetch_line((const char *)from + i);
}

/* Words of a matrix for `multiply`: its floats, or bf16 neighbours in a row. */
INLINE const float *along(long count, const float *in, float *words, const int half) {
    if (!half) return in;
    for (long i = 0; i < count; i += LANES) store(words, i, *(const vec *)(in + i), 1);
    return words;
}

/* The same, with neighbours in a column; a row too few is one of zeros. */
INLINE const float *across(long rows, long columns, const float *in, float *words, const int half) {
    if (!half) return in;
    for (long m = 0; m < rows; m += 2)
        for (long n = 0; n < columns; n += LANES) {
            const float *low = in + m * columns + n, *high = low + columns;
            const uvec bits = rounded(m + 1 < rows ? *(const vec *)high : (vec){0}) & 0xffff0000;
            *(uvec *)(words + m / 2 * columns + n) = bits | rounded(*(const vec *)low) >> 16;
        }
    return words;
}

/* A matrix [rows, columns], `stored` as bf16 or as floats, as words of [columns, rows] with neighbours
 * along the columns that are summed. */
INLINE void transposed(long rows, long columns, const void *in, float *words, float *out,
                       const int half, const int stored) {
    if (stored) transpose_widened(rows, columns, in, out);
    else transpose(rows, half ? columns / 2 : columns, along(rows * columns, in, words, half), out);
}

/* `product` of numbers given as words; depth counts numbers. */
INLINE void multiply(long M, long n, long depth, const float *A, long a_row, long a_step,
                     const float *B, float *C, long ldb, int accumulate, const int half) {
    if (half) product_half(M, n, (depth + 1) / 2, A, a_row, a_step, B, ldb, C, ldb, accumulate);
    else product(M, n, depth, A, a_row, a_step, B, ldb, C, ldb, accumulate);
}

/* Rows times a matrix [depth, n]. If there is a matrix `next`, of numbers of `size` bytes, each strip
 * of columns fetches its share of it. */
INLINE void multiply_fetching(long M, long n, long depth, const float *A, const float *B, float *C,
                              const char *next, long size, const int half) {
    const long words = half ? depth / 2 : depth, strip = next ? TILE_COLUMNS : n;
    for (long j = 0; j < n; j += strip) {
        if (next) fetch(next + j * depth * size, strip * depth * size);
        multiply(M, strip, depth, A, words, 1, B + j, C + j, n, 0, half);
    }
}

/* The tokens of slots. */
INLINE void find_tokens(long M, const int32_t *order, long K, int32_t *tokens) {
    for (long m = 0; m < M; m++) tokens[m] = (uint32_t)order[m] / (uint32_t)K;
}

/* Rows of `bytes` each, those of `tokens` or, if they are not given, one after the other. */
typedef struct {
    const char *from;
    const int32_t *tokens;
    long bytes, count;
} Rows;

INLINE const char *row_number(const Rows *r, long i) {
    return r->from + (r->tokens ? r->tokens[i] : i) * r->bytes;
}

/* `product` that meanwhile, tile by tile, fetches the rows that are needed next: where they lie no
 * processor foresees, and all at once they would be waited for. */
INLINE void product_ahead_of(long M, long n, long depth, const float *A, long a_row, long a_step,
                             const float *B, float *C, int accumulate, const int half,
                             const Rows *ahead) {
    const long tiles = (M + TILE_ROWS - 1) / TILE_ROWS, all = tiles * (n / TILE_COLUMNS);
    long due = 0, row = 0;
    for (long t = 0; t < tiles; t++) {
        const long first = M * t / tiles, rows = M * (t + 1) / tiles - first;
        for (long j = 0; j < n; j += TILE_COLUMNS) {
            for (due += ahead->count; due >= all; due -= all)
                fetch(row_number(ahead, row++), ahead->bytes);
            tile_of(rows, A + first * a_row, a_row, a_step, B + j, n, C + first * n + j, n, depth,
                    accumulate, half, NO_LINES);
        }
    }
}

static void product_ahead(long M, long n, long depth, const float *A, long a_row, long a_step,
                          const float *B, float *C, int accumulate, const Rows *ahead) {
    product_ahead_of(M, n, depth, A, a_row, a_step, B, C, accumulate, 0, ahead);
}

static void product_half_ahead(long M, long n, long depth, const float *A, long a_row, long a_step,
                               const float *B, float *C, int accumulate, const Rows *ahead) {
    product_ahead_of(M, n, depth, A, a_row, a_step, B, C, accumulate, 1, ahead);
}

/* `multiply` with rows ahead. */
INLINE void multiply_ahead(long M, long n, long depth, const float *A, long a_row, long a_step,
                           const float *B, float *C, int accumulate, const int half, Rows ahead) {
    if (half) product_half_ahead(M, n, (depth + 1) / 2, A, a_row, a_step, B, C, accumulate, &ahead);
    else product_ahead(M, n, depth, A, a_row, a_step, B, C, accumulate, &ahead);
}

/* The rows of tokens, as floats. */
INLINE void gather(long M, long H, const void *x, const int32_t *tokens, float *rows,
                   const int stored) {
    const long row = H * (stored ? sizeof(uint16_t) : sizeof(float));
    for (long m = 0; m < M; m++) {
        const char *from = (const char *)x + tokens[m] * row;
        for (long i = 0; i < H; i += LANES) *(vec *)(rows + m * H + i) = load(from, i, stored);
    }
}

/* Rows added to those of their tokens; `out` begins at token `first`. */
INLINE void add_rows(long M, long H, const float *rows, const int32_t *tokens, long first,
                     float *out) {
    for (long m = 0; m < M; m++) {
        float *to = out + (tokens[m] - first) * H;
        for (long i = 0; i < H; i += LANES) *(vec *)(to + i) += *(const vec *)(rows + m * H + i);
    }
}

typedef struct {
    long N, K, E, H, I;
    const char *x, *w13, *w2; /* floats, or `stored` as bf16, and so is out */
    const float *gate;
    const int32_t *order, *offsets;
    float *h; /* [slots, J], sorted pre-activations; or NULL */
    void *out;
    int32_t *start;   /* where each expert's slots begin that are not worked off */
    long first, last; /* tokens that are worked off now */
    float *sums;      /* theirs */
} Layer;

/* Memory for an expert's weights and a block of rows. */
typedef struct {
    float *w13, *w2, *words, *rows, *y, *a, *a_words, *h;
} Block;

INLINE long most_words(const Layer *l) {
    return l->H * (2 * l->I > FORWARD_BLOCK ? 2 * l->I : FORWARD_BLOCK);
}

INLINE long block_numbers(const Layer *l) {
    return 3 * l->H * l->I + most_words(l) + FORWARD_BLOCK * (2 * l->H + 4 * l->I);
}

static Block divide(float *memory, const Layer *l) {
    const long matrix = l->H * l->I, wide = FORWARD_BLOCK * l->H, narrow = FORWARD_BLOCK * l->I;
    Block b;
    b.w13 = memory, b.w2 = b.w13 + 2 * matrix, b.words = b.w2 + matrix;
    b.rows = b.words + most_words(l), b.y = b.rows + wide;
    b.a = b.y + wide, b.a_words = b.a + narrow, b.h = b.a_words + narrow;
    return b;
}

/* Sorted slots p to p + M of one expert. The next expert's weights, if they are named, are fetched
 * meanwhile. */
INLINE void block(const Layer *l, long p, long M, Block b, const char *next13, const char *next2,
                  const int half, const int stored) {
    const long H = l->H, I = l->I, J = 2 * I, size = stored ? 2 : 4;
    const int32_t *order = l->order + p;
    float *h = l->h ? l->h + p * J : b.h;
    int32_t tokens[FORWARD_BLOCK];
    find_tokens(M, order, l->K, tokens);
    gather(M, H, l->x, tokens, b.rows, stored);
    const float *x = along(M * H, b.rows, b.words, half);
    multiply_fetching(M, J, H, x, b.w13, h, next13, size, half);
    for (long m = 0; m < M; m++)
        for (long i = 0; i < I; i += LANES) {
            const vec g = *(vec *)(h + m * J + i), u = *(vec *)(h + m * J + I + i);
            *(vec *)(b.a + m * I + i) = g * vec_sigmoid(g) * u * l->gate[order[m]];
        }
    const float *a = along(M * I, b.a, b.a_words, half);
    multiply_fetching(M, H, I, a, b.w2, b.y, next2, size, half);
    add_rows(M, H, b.y, tokens, l->first, l->sums);
}

INLINE int has_rows(const Layer *l, long e, long p) {
    return p < l->offsets[e + 1] && l->order[p] < l->last * l->K;
}

INLINE long next_with_rows(const Layer *l, long e) {
    do e++;
    while (e < l->E && !has_rows(l, e, l->start[e]));
    return e;
}

/* The tokens from `first` to `last` through all experts, an expert's rows in even blocks. */
INLINE void tokens(const Layer *l, Block b, const int half, const int stored) {
    const long H = l->H, I = l->I, matrix = I * H * (stored ? 2 : 4);
    for (long after, e = next_with_rows(l, -1); e < l->E; e = after) {
        const char *w13 = l->w13 + 2 * e * matrix, *w2 = l->w2 + e * matrix;
        after = next_with_rows(l, e);
        const char *next13 = after < l->E ? l->w13 + 2 * after * matrix : NULL;
        const char *next2 = after < l->E ? l->w2 + after * matrix : NULL;
        transposed(2 * I, H, w13, b.words, b.w13, half, stored);
        transposed(H, I, w2, b.words, b.w2, half, stored);
        const long p = l->start[e];
        while (has_rows(l, e, l->start[e])) l->start[e]++;
        const long rows = l->start[e] - p, blocks = (rows + FORWARD_BLOCK - 1) / FORWARD_BLOCK;
        for (long i = 0; i < blocks; i++, next13 = next2 = NULL) {
            const long from = rows * i / blocks, to = rows * (i + 1) / blocks;
            block(l, p + from, to - from, b, next13, next2, half, stored);
        }
    }
}

INLINE void forward(Layer *l, Block b, float *sums, const int half, const int stored) {
    const long H = l->H;
    memcpy(l->start, l->offsets, l->E * sizeof *l->start);
    for (l->first = 0; l->first < l->N; l->first = l->last) {
        l->last = l->N - l->first < TOKENS ? l->N : l->first + TOKENS;
        const long from = l->first * H, numbers = (l->last - l->first) * H;
        l->sums = stored ? sums : (float *)l->out + from;
        memset(l->sums, 0, numbers * sizeof *sums);
        tokens(l, b, half, stored);
        for (long i = 0; stored && i < numbers; i += LANES)
            store(l->out, from + i, *(vec *)(sums + i), 1);
    }
}

/* out [N, H] = the experts' sum; h [slots, J], if given, keeps the sorted pre-activations. With
 * `half` the products, not the sums, are those of bf16; with `stored` x, w13, w2 and out hold bf16 and
 * the products are those of floats. */
int emo_experts_forward(long N, long K, long E, long H, long I, long half, long stored,
                        const char *x, const char *w13, const char *w2, const float *gate,
                        const int32_t *order, const int32_t *offsets, float *h, void *out) {
    Layer l = {N, K, E, H, I, x, w13, w2, gate, order, offsets, h, out, NULL, 0, 0, NULL};
    const long numbers = block_numbers(&l), sums = stored ? (N < TOKENS ? N : TOKENS) * H : 0;
    float *memory = aligned_alloc(64, (numbers + sums) * sizeof *memory);
    l.start = malloc(E * sizeof *l.start);
    const int failed = !memory || !l.start;
    if (!failed) {
        const Block b = divide(memory, &l);
        if (stored) forward(&l, b, memory + numbers, 0, 1);
        else if (half) forward(&l, b, NULL, 1, 0);
        else forward(&l, b, NULL, 0, 0);
    }
    free(l.start);
    free(memory);
    return failed;
}

/* From saved h [M, J] and da [M, I] = d(loss)/d(gate * a): a becomes gate * a, dh is overwritten,
 * dgate gets one number a slot. */
INLINE void activation_backward(long M, long I, const float *h, const float *gate,
                                const int32_t *order, const float *da, float *a, float *dh,
                                float *dgate) {
    const long J = 2 * I;
    for (long m = 0; m < M; m++) {
        const float s = gate[order[m]];
        vec total = {0};
        for (long i = 0; i < I; i += LANES) {
            const vec g = *(const vec *)(h + m * J + i), u = *(const vec *)(h + m * J + I + i);
            const vec sigmoid = vec_sigmoid(g), silu = g * sigmoid;
            const vec d = *(const vec *)(da + m * I + i);
            total += d * silu * u;
            *(vec *)(a + m * I + i) = silu * u * s;
            *(vec *)(dh + m * J + i) = d * s * u * (sigmoid + silu * (1.0f - sigmoid));
            *(vec *)(dh + m * J + I + i) = d * s * silu;
        }
        dgate[order[m]] = sum_lanes(total);
    }
}

INLINE int backward(long K, long E, long H, long I, const float *x, const float *w13, const float *w2,
                    const float *gate, const int32_t *order, const int32_t *offsets, const float *h,
                    const float *dout, float *dx, float *dw13, float *dw2, float *dgate,
                    const int half) {
    const long J = 2 * I, per_word = half ? 2 : 1, most = H > J ? H : J;
    const long numbers = 3 * H * I + BACKWARD_BLOCK * (3 * H + 2 * I + J + 2 * most);
    float *memory = aligned_alloc(64, numbers * sizeof *memory);
    if (!memory) return 1;
    float *w13_words = memory, *w2_words = w13_words + J * H, *rows = w2_words + H * I;
    float *dy = rows + BACKWARD_BLOCK * H, *dx_rows = dy + BACKWARD_BLOCK * H, *a = dx_rows + BACKWARD_BLOCK * H;
    float *da = a + BACKWARD_BLOCK * I, *dh = da + BACKWARD_BLOCK * I, *left = dh + BACKWARD_BLOCK * J;
    float *right = left + BACKWARD_BLOCK * most;
    for (long e = 0; e < E; e++) {
        if (offsets[e] == offsets[e + 1]) continue;
        const float *w13_IH = across(J, H, w13 + e * J * H, w13_words, half);
        const float *w2_HI = across(H, I, w2 + e * H * I, w2_words, half);
        for (long p = offsets[e]; p < offsets[e + 1]; p += BACKWARD_BLOCK) {
            const long M = offsets[e + 1] - p < BACKWARD_BLOCK ? offsets[e + 1] - p : BACKWARD_BLOCK;
            const int later = p > offsets[e];
            const long after = p + M, left_over = offsets[E] - after;
            const long next = left_over < BACKWARD_BLOCK ? left_over : BACKWARD_BLOCK;
            int32_t tokens[BACKWARD_BLOCK], next_tokens[BACKWARD_BLOCK];
            find_tokens(M, order + p, K, tokens);
            find_tokens(next, order + after, K, next_tokens);
            const Rows next_h = {(const char *)(h + after * J), NULL, J * sizeof *h, next};
            const Rows next_x = {(const char *)x, next_tokens, H * sizeof *x, next};
            const Rows next_dy = {(const char *)dout, next_tokens, H * sizeof *dout, next};
            const Rows sums = {(const char *)dx, tokens, H * sizeof *dx, M};
            gather(M, H, x, tokens, rows, 0);
            gather(M, H, dout, tokens, dy, 0);
            const float *A = along(M * H, dy, left, half);
            multiply_ahead(M, I, H, A, H / per_word, 1, w2_HI, da, 0, half, next_h);
            activation_backward(M, I, h + p * J, gate, order + p, da, a, dh, dgate);
            A = across(M, H, dy, left, half);
            const float *B = across(M, I, a, right, half);
            multiply_ahead(H, I, M, A, 1, H, B, dw2 + e * H * I, later, half, sums);
            A = across(M, J, dh, left, half), B = across(M, H, rows, right, half);
            multiply_ahead(J, H, M, A, 1, J, B, dw13 + e * J * H, later, half, next_x);
            A = along(M * J, dh, left, half);
            multiply_ahead(M, H, J, A, J / per_word, 1, w13_IH, dx_rows, 0, half, next_dy);
            add_rows(M, H, dx_rows, tokens, 0, dx);
        }
    }
    free(memory);
    return 0;
}

/* dx [N, H] and dgate [slots] are added to and written; dw13, dw2 of experts with rows written. */
int emo_experts_backward(long K, long E, long H, long I, long half, const float *x, const float *w13,
                         const float *w2, const float *gate, const int32_t *order,
                         const int32_t *offsets, const float *h, const float *dout, float *dx,
                         float *dw13, float *dw2, float *dgate) {
#define BACKWARD(HALF) \
    backward(K, E, H, I, x, w13, w2, gate, order, offsets, h, dout, dx, dw13, dw2, dgate, HALF)
    return half ? BACKWARD(1) : BACKWARD(0);
}
