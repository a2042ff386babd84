/* SwiGLU experts of one MoE layer on a CPU, fp32, forward and backward.
 *
 * Slots (token, expert) are counting-sorted by expert. The rows of one expert are worked off in
 * blocks that stay in the cache: gather, product, activation, product, add to the token. Every
 * token's sum runs in expert order, so equal inputs give equal bits, whatever other tokens do.
 * Threads share the tokens. Backward, each sums gradients of weights for itself, which are added up
 * in the end: their last bits depend on the number of threads.
 *
 * Letters: N tokens, K slots a token, E experts, H hidden size, I expert width, J = 2I, M rows.
 * w13 is [E, J, H] (gate over up), w2 [E, H, I], as transformers stores fused experts. H and I are
 * multiples of WIDTH. Expert ids outside 0..E-1 drop their slot.
 */
#include "simd.h"
#include "threads.h"

/* Rows of an expert that are worked off together. Forward, they leave most of the nearest cache to the
 * weights; backward, every block adds to gradients as large as the weights. */
#define FORWARD_BLOCK 16
#define BACKWARD_BLOCK 48
/* Tokens that all experts have worked off before they begin with others, forward: with their sums they
 * stay in the cache of one processor; fewer do not pay for the weights that are put in order. */
#define TOKENS 2048
#define FEWEST_TOKENS 128

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
        if (next) fetch_bytes(next + j * depth * size, strip * depth * size);
        multiply(M, strip, depth, A, words, 1, B + j, C + j, n, 0, half);
    }
}

/* The tokens of slots. */
INLINE void find_tokens(long M, const int32_t *order, long K, int32_t *tokens) {
    for (long m = 0; m < M; m++) tokens[m] = (uint32_t)order[m] / (uint32_t)K;
}

/* `product` with rows ahead. */
static void product_ahead(long M, long n, long depth, const float *A, long a_row, long a_step,
                          const float *B, float *C, int accumulate, const Ahead *ahead) {
    product_of(M, n, depth, A, a_row, a_step, B, n, C, n, accumulate, 0, ahead);
}

static void product_half_ahead(long M, long n, long depth, const float *A, long a_row, long a_step,
                               const float *B, float *C, int accumulate, const Ahead *ahead) {
    product_of(M, n, depth, A, a_row, a_step, B, n, C, n, accumulate, 1, ahead);
}

/* `multiply` with rows ahead. */
INLINE void multiply_ahead(long M, long n, long depth, const float *A, long a_row, long a_step,
                           const float *B, float *C, int accumulate, const int half, Ahead ahead) {
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
    long tokens; /* of a piece */
    int half, stored;
    float *memory; /* of each thread: a Block, and sums of a piece if `stored` */
} Layer;

/* Tokens that are worked off now. */
typedef struct {
    long first, last;
    float *sums; /* their outputs */
} Piece;

/* The first of sorted slots from .. to that is of a token from `token` on. */
INLINE long slot_of_token(const int32_t *order, long from, long to, long token, long K) {
    while (from < to) {
        const long middle = (from + to) / 2;
        if (order[middle] < token * K) from = middle + 1;
        else to = middle;
    }
    return from;
}

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
INLINE void block(const Layer *l, Piece piece, long p, long M, Block b, const char *next13,
                  const char *next2, const int half, const int stored) {
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
    add_rows(M, H, b.y, tokens, piece.first, piece.sums);
}

/* An expert's sorted slots that are of a piece, first to last. */
typedef struct {
    long expert, first, last;
} Slots;

/* Those of the next expert that has some; number E has none. */
INLINE Slots next_slots(const Layer *l, Piece piece, long e) {
    Slots s = {e, 0, 0};
    while (s.first == s.last && ++s.expert < l->E) {
        const long to = l->offsets[s.expert + 1];
        s.first = slot_of_token(l->order, l->offsets[s.expert], to, piece.first, l->K);
        s.last = slot_of_token(l->order, s.first, to, piece.last, l->K);
    }
    return s;
}

/* A piece through all experts, an expert's rows in even blocks. */
INLINE void experts(const Layer *l, Piece piece, Block b, const int half, const int stored) {
    const long H = l->H, I = l->I, matrix = I * H * (stored ? 2 : 4);
    for (Slots next, s = next_slots(l, piece, -1); s.expert < l->E; s = next) {
        next = next_slots(l, piece, s.expert);
        const char *w13 = l->w13 + 2 * s.expert * matrix, *w2 = l->w2 + s.expert * matrix;
        const char *next13 = next.expert < l->E ? l->w13 + 2 * next.expert * matrix : NULL;
        const char *next2 = next13 ? l->w2 + next.expert * matrix : NULL;
        transposed(2 * I, H, w13, b.words, b.w13, half, stored);
        transposed(H, I, w2, b.words, b.w2, half, stored);
        const long rows = s.last - s.first, blocks = (rows + FORWARD_BLOCK - 1) / FORWARD_BLOCK;
        for (long i = 0; i < blocks; i++, next13 = next2 = NULL) {
            const long from = rows * i / blocks, to = rows * (i + 1) / blocks;
            block(l, piece, s.first + from, to - from, b, next13, next2, half, stored);
        }
    }
}

INLINE long piece_numbers(const Layer *l) {
    return block_numbers(l) + (l->stored ? l->tokens * l->H : 0);
}

INLINE void forward(const Layer *l, long piece, float *memory, const int half, const int stored) {
    const long H = l->H, first = piece * l->tokens, left = l->N - first;
    Piece p = {first, left < l->tokens ? l->N : first + l->tokens};
    const long from = first * H, numbers = (p.last - first) * H;
    p.sums = stored ? memory + block_numbers(l) : (float *)l->out + from;
    memset(p.sums, 0, numbers * sizeof *p.sums);
    experts(l, p, divide(memory, l), half, stored);
    for (long i = 0; stored && i < numbers; i += LANES)
        store(l->out, from + i, *(vec *)(p.sums + i), 1);
}

static void forward_piece(void *layer, long piece, long thread) {
    const Layer *l = layer;
    float *memory = l->memory + thread * piece_numbers(l);
    if (l->stored) forward(l, piece, memory, 0, 1);
    else if (l->half) forward(l, piece, memory, 1, 0);
    else forward(l, piece, memory, 0, 0);
}

INLINE long larger_of(long a, long b) { return a > b ? a : b; }

/* out [N, H] = the experts' sum; h [slots, J], if given, keeps the sorted pre-activations. With
 * `half` the products, not the sums, are those of bf16; with `stored` x, w13, w2 and out hold bf16 and
 * the products are those of floats. */
int emo_experts_forward(long pool, long threads, long N, long K, long E, long H, long I, long half,
                        long stored, const char *x, const char *w13, const char *w2,
                        const float *gate, const int32_t *order, const int32_t *offsets, float *h,
                        void *out) {
    Layer l = {N, K, E, H, I, x, w13, w2, gate, order, offsets, h, out};
    l.half = (int)half, l.stored = (int)stored;
    const long rounds = (N + threads * TOKENS - 1) / (threads * TOKENS), turns = threads * rounds;
    l.tokens = larger_of(N ? (N + turns - 1) / turns : 0, FEWEST_TOKENS);
    const long pieces = (N + l.tokens - 1) / l.tokens;
    l.memory = aligned_alloc(64, useful_threads(threads, pieces) * piece_numbers(&l) * sizeof *l.memory);
    if (!l.memory) return 1;
    on_threads(pool, threads, pieces, forward_piece, &l);
    free(l.memory);
    return 0;
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

typedef struct {
    long N, K, E, H, I, pieces;
    const float *x, *w13, *w2, *gate;
    const int32_t *order, *offsets;
    const float *h, *dout;
    float *dx, *dw13, *dw2, *dgate;
    int half;
    float *more13, *more2; /* dw13 and dw2 of the second piece and those after it */
    float *memory;         /* of each thread */
} Gradients;

/* Memory for an expert's weights as words, and for a block of rows. */
typedef struct {
    float *w13, *w2, *rows, *dy, *dx, *a, *da, *dh, *left, *right;
} Rows;

INLINE long rows_numbers(const Gradients *g) {
    const long H = g->H, I = g->I, most = larger_of(H, 2 * I);
    return 3 * H * I + BACKWARD_BLOCK * (3 * H + 4 * I + 2 * most);
}

static Rows divide_rows(float *memory, const Gradients *g) {
    const long matrix = g->H * g->I, wide = BACKWARD_BLOCK * g->H, narrow = BACKWARD_BLOCK * g->I;
    Rows r;
    r.w13 = memory, r.w2 = r.w13 + 2 * matrix, r.rows = r.w2 + matrix;
    r.dy = r.rows + wide, r.dx = r.dy + wide, r.a = r.dx + wide;
    r.da = r.a + narrow, r.dh = r.da + narrow, r.left = r.dh + 2 * narrow;
    r.right = r.left + BACKWARD_BLOCK * larger_of(g->H, 2 * g->I);
    return r;
}

/* Sorted slots p to p + M of one expert, with weights as words; `later` ones add to dw13 and dw2. The
 * rows of `next` slots that follow are fetched. */
INLINE void block_backward(const Gradients *g, long p, long M, long next, Rows r, const float *w13_IH,
                           const float *w2_HI, float *dw13, float *dw2, int later, const int half) {
    const long H = g->H, I = g->I, J = 2 * I, per_word = half ? 2 : 1;
    int32_t tokens[BACKWARD_BLOCK], next_tokens[BACKWARD_BLOCK];
    find_tokens(M, g->order + p, g->K, tokens);
    find_tokens(next, g->order + p + M, g->K, next_tokens);
    const Ahead next_h = {(const char *)(g->h + (p + M) * J), NULL, J * sizeof(float), next};
    const Ahead next_x = {(const char *)g->x, next_tokens, H * sizeof(float), next};
    const Ahead next_dy = {(const char *)g->dout, next_tokens, H * sizeof(float), next};
    const Ahead sums = {(const char *)g->dx, tokens, H * sizeof(float), M};
    gather(M, H, g->x, tokens, r.rows, 0);
    gather(M, H, g->dout, tokens, r.dy, 0);
    const float *A = along(M * H, r.dy, r.left, half);
    multiply_ahead(M, I, H, A, H / per_word, 1, w2_HI, r.da, 0, half, next_h);
    activation_backward(M, I, g->h + p * J, g->gate, g->order + p, r.da, r.a, r.dh, g->dgate);
    A = across(M, H, r.dy, r.left, half);
    const float *B = across(M, I, r.a, r.right, half);
    multiply_ahead(H, I, M, A, 1, H, B, dw2, later, half, sums);
    A = across(M, J, r.dh, r.left, half), B = across(M, H, r.rows, r.right, half);
    multiply_ahead(J, H, M, A, 1, J, B, dw13, later, half, next_x);
    A = along(M * J, r.dh, r.left, half);
    multiply_ahead(M, H, J, A, J / per_word, 1, w13_IH, r.dx, 0, half, next_dy);
    add_rows(M, H, r.dx, tokens, 0, g->dx);
}

INLINE long piece_start(const Gradients *g, long e, long piece) {
    const long token = g->N * piece / g->pieces;
    return slot_of_token(g->order, g->offsets[e], g->offsets[e + 1], token, g->K);
}

/* Where a piece sums an expert's gradients, in those of its matrices with so many numbers. */
INLINE float *sums_of(const Gradients *g, long piece, long e, float *all, float *more, long numbers) {
    return piece ? more + ((piece - 1) * g->E + e) * numbers : all + e * numbers;
}

INLINE void backward(const Gradients *g, long piece, Rows r, const int half) {
    const long H = g->H, I = g->I, J = 2 * I, matrix = H * I;
    for (long e = 0; e < g->E; e++) {
        const long first = piece_start(g, e, piece), last = piece_start(g, e, piece + 1);
        if (first == last) continue;
        const float *w13_IH = across(J, H, g->w13 + 2 * e * matrix, r.w13, half);
        const float *w2_HI = across(H, I, g->w2 + e * matrix, r.w2, half);
        float *dw13 = sums_of(g, piece, e, g->dw13, g->more13, 2 * matrix);
        float *dw2 = sums_of(g, piece, e, g->dw2, g->more2, matrix);
        for (long p = first; p < last; p += BACKWARD_BLOCK) {
            const long M = last - p < BACKWARD_BLOCK ? last - p : BACKWARD_BLOCK;
            const long left = last - p - M;
            const long next = left < BACKWARD_BLOCK ? left : BACKWARD_BLOCK;
            block_backward(g, p, M, next, r, w13_IH, w2_HI, dw13, dw2, p > first, half);
        }
    }
}

static void backward_piece(void *gradients, long piece, long thread) {
    const Gradients *g = gradients;
    const Rows r = divide_rows(g->memory + thread * rows_numbers(g), g);
    if (g->half) backward(g, piece, r, 1);
    else backward(g, piece, r, 0);
}

INLINE void add(long numbers, const float *from, float *to) {
    for (long i = 0; i < numbers; i += LANES) *(vec *)(to + i) += *(const vec *)(from + i);
}

/* The gradients of an expert's weights by all pieces, in their order. */
static void add_pieces(void *gradients, long e, long thread) {
    const Gradients *g = gradients;
    const long matrix = g->H * g->I;
    (void)thread;
    for (long piece = 1; piece < g->pieces; piece++) {
        if (piece_start(g, e, piece) == piece_start(g, e, piece + 1)) continue;
        add(2 * matrix, sums_of(g, piece, e, g->dw13, g->more13, 2 * matrix), g->dw13 + 2 * e * matrix);
        add(matrix, sums_of(g, piece, e, g->dw2, g->more2, matrix), g->dw2 + e * matrix);
    }
}

/* dx [N, H] and dgate [slots] are added to and written; dw13, dw2 are 0, and written for experts with
 * rows. */
int emo_experts_backward(long pool, long threads, long N, long K, long E, long H, long I, long half,
                         const float *x, const float *w13, const float *w2, const float *gate,
                         const int32_t *order, const int32_t *offsets, const float *h,
                         const float *dout, float *dx, float *dw13, float *dw2, float *dgate) {
    /* Every piece has gradients of all weights: few rows of an expert do not pay for them. */
    const long most_pieces = E ? N * K / (E * BACKWARD_BLOCK) : 0;
    const long pieces = useful_threads(threads, most_pieces);
    Gradients g = {N, K, E, H, I, pieces, x, w13, w2, gate, order, offsets, h, dout};
    g.dx = dx, g.dw13 = dw13, g.dw2 = dw2, g.dgate = dgate, g.half = (int)half;
    const long rows = pieces * rows_numbers(&g), more = (pieces - 1) * E * H * I;
    g.memory = aligned_alloc(64, (rows + 3 * more) * sizeof *g.memory);
    if (!g.memory) return 1;
    g.more13 = g.memory + rows, g.more2 = g.more13 + 2 * more;
    on_threads(pool, threads, pieces, backward_piece, &g);
    if (pieces > 1) on_threads(pool, threads, E, add_pieces, &g);
    free(g.memory);
    return 0;
}
