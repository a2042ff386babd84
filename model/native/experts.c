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

#define BLOCK 64

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

/* Rows and weights lie far apart, where no processor guesses the next: they are asked for early. */
INLINE void fetch(const float *weights, long count) {
    for (long i = 0; i < count; i += LINE / sizeof *weights) fetch_line(weights + i);
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

/* out = the words of matrix [rows, columns], neighbours in a row, as [columns, rows]. */
INLINE void transposed_words(long rows, long columns, const float *in, float *words, float *out,
                             const int half) {
    const float *from = along(rows * columns, in, words, half);
    transpose(rows, half ? columns / 2 : columns, from, out);
}

/* `product` of numbers given as words; depth counts numbers. */
INLINE void multiply(long M, long n, long depth, const float *A, long a_row, long a_step,
                     const float *B, float *C, long ldb, int accumulate, const int half) {
    if (half) product_half(M, n, (depth + 1) / 2, A, a_row, a_step, B, ldb, C, ldb, accumulate);
    else product(M, n, depth, A, a_row, a_step, B, ldb, C, ldb, accumulate);
}

/* Rows times a matrix [depth, n] in strips of columns; each fetches a share of the one at `next`. */
INLINE void multiply_fetching(long M, long n, long depth, const float *A, const float *B, float *C,
                              const float *next, const int half) {
    const long share = depth * TILE_COLUMNS, words = half ? depth / 2 : depth;
    for (long j = 0; j < n; j += TILE_COLUMNS) {
        if (next) fetch(next + j / TILE_COLUMNS * share, share);
        multiply(M, TILE_COLUMNS, depth, A, words, 1, B + j, C + j, n, 0, half);
    }
}

INLINE long next_with_rows(long e, long E, const int32_t *offsets) {
    do e++;
    while (e < E && offsets[e] == offsets[e + 1]);
    return e;
}

INLINE void gather(long M, long H, const float *x, const int32_t *order, long K, float *rows) {
    for (long m = 0; m < M; m++) {
        if (m + 4 < M) fetch(x + order[m + 4] / K * H, H);
        memcpy(rows + m * H, x + order[m] / K * H, H * sizeof *rows);
    }
}

INLINE void add_rows(long M, long H, const float *rows, const int32_t *order, long K, float *out) {
    for (long m = 0; m < M; m++) {
        float *to = out + order[m] / K * H;
        if (m + 4 < M) fetch(out + order[m + 4] / K * H, H);
        for (long i = 0; i < H; i += LANES) *(vec *)(to + i) += *(const vec *)(rows + m * H + i);
    }
}

INLINE int forward(long K, long E, long H, long I, const float *x, const float *w13, const float *w2,
                   const float *gate, const int32_t *order, const int32_t *offsets, float *h,
                   float *out, const int half) {
    const long J = 2 * I, numbers = 3 * H * I + J * H + BLOCK * (2 * H + 2 * I + J);
    float *memory = aligned_alloc(64, numbers * sizeof *memory);
    if (!memory) return 1;
    float *w13_t = memory, *w2_t = w13_t + H * J, *words = w2_t + H * I, *rows = words + J * H;
    float *y = rows + BLOCK * H, *a = y + BLOCK * H, *a_words = a + BLOCK * I;
    float *h_block = a_words + BLOCK * I;
    for (long e = 0; e < E; e++) {
        if (offsets[e] == offsets[e + 1]) continue;
        transposed_words(J, H, w13 + e * J * H, words, w13_t, half);
        transposed_words(H, I, w2 + e * H * I, words, w2_t, half);
        const long after = next_with_rows(e, E, offsets);
        for (long p = offsets[e]; p < offsets[e + 1]; p += BLOCK) {
            const long M = offsets[e + 1] - p < BLOCK ? offsets[e + 1] - p : BLOCK;
            const int ahead = p == offsets[e] && after < E;
            float *hp = h ? h + p * J : h_block;
            gather(M, H, x, order + p, K, rows);
            const float *x_words = along(M * H, rows, words, half);
            multiply_fetching(M, J, H, x_words, w13_t, hp, ahead ? w13 + after * J * H : NULL, half);
            for (long m = 0; m < M; m++)
                for (long i = 0; i < I; i += LANES) {
                    const vec g = *(vec *)(hp + m * J + i), u = *(vec *)(hp + m * J + I + i);
                    *(vec *)(a + m * I + i) = g * vec_sigmoid(g) * u * gate[order[p + m]];
                }
            const float *act = along(M * I, a, a_words, half);
            multiply_fetching(M, H, I, act, w2_t, y, ahead ? w2 + after * H * I : NULL, half);
            add_rows(M, H, y, order + p, K, out);
        }
    }
    free(memory);
    return 0;
}

/* out [N, H] += the experts' sum; h [slots, J], if given, keeps the sorted pre-activations. With
 * `half` the products, not the sums, are those of bf16. */
int emo_experts_forward(long K, long E, long H, long I, long half, const float *x, const float *w13,
                        const float *w2, const float *gate, const int32_t *order,
                        const int32_t *offsets, float *h, float *out) {
    if (half) return forward(K, E, H, I, x, w13, w2, gate, order, offsets, h, out, 1);
    return forward(K, E, H, I, x, w13, w2, gate, order, offsets, h, out, 0);
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
    const long numbers = 3 * H * I + BLOCK * (3 * H + 2 * I + J + 2 * most);
    float *memory = aligned_alloc(64, numbers * sizeof *memory);
    if (!memory) return 1;
    float *w13_words = memory, *w2_words = w13_words + J * H, *rows = w2_words + H * I;
    float *dy = rows + BLOCK * H, *dx_rows = dy + BLOCK * H, *a = dx_rows + BLOCK * H;
    float *da = a + BLOCK * I, *dh = da + BLOCK * I, *left = dh + BLOCK * J;
    float *right = left + BLOCK * most;
    for (long e = 0; e < E; e++) {
        if (offsets[e] == offsets[e + 1]) continue;
        const float *w13_IH = across(J, H, w13 + e * J * H, w13_words, half);
        const float *w2_HI = across(H, I, w2 + e * H * I, w2_words, half);
        for (long p = offsets[e]; p < offsets[e + 1]; p += BLOCK) {
            const long M = offsets[e + 1] - p < BLOCK ? offsets[e + 1] - p : BLOCK;
            const int later = p > offsets[e];
            gather(M, H, x, order + p, K, rows);
            gather(M, H, dout, order + p, K, dy);
            const float *A = along(M * H, dy, left, half);
            multiply(M, I, H, A, H / per_word, 1, w2_HI, da, I, 0, half);
            activation_backward(M, I, h + p * J, gate, order + p, da, a, dh, dgate);
            A = across(M, H, dy, left, half);
            const float *B = across(M, I, a, right, half);
            multiply(H, I, M, A, 1, H, B, dw2 + e * H * I, I, later, half);
            A = across(M, J, dh, left, half), B = across(M, H, rows, right, half);
            multiply(J, H, M, A, 1, J, B, dw13 + e * J * H, H, later, half);
            A = along(M * J, dh, left, half);
            multiply(M, H, J, A, J / per_word, 1, w13_IH, dx_rows, H, 0, half);
            add_rows(M, H, dx_rows, order + p, K, dx);
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
