/* Causal attention inside documents on a CPU, rotary positions included, forward and backward.
 *
 * A thread works off one head of one row at a time, so that its queries, keys and values stay in the
 * cache. Keys before the first token of a query's document, or after the query, are never read
 * by whole tiles, and masked inside them.
 *
 * Letters: B rows, T tokens a row, A heads, D numbers a head. qkv is [B, T, 3, A, D], out
 * [B, T, A, D], both floats or bf16 (`half`); cosine and sine [B, T, D], equal in both halves of
 * D; first [B, T] where the token's document begins in its row; lse [B, A, T] log-sum-exp of the
 * scores. D is a multiple of 2 * LANES; buffers hold `padded` tokens, T rounded up to whole tiles.
 */
#include "simd.h"
#include "threads.h"

#define BLOCK 16 /* queries of the backward pass: more would read more keys that are masked */

typedef struct {
    long T, padded, D, stride; /* stride: numbers from one token to the next in qkv */
    const float *cosine, *sine;
    const int32_t *first;
} Row;

static long whole_tiles(long T) { return (T + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS; }

/* Where a head begins: its queries in qkv, its part of out. */
typedef struct {
    long q, o;
} Head;

typedef struct {
    long B, T, A, D, half, step; /* step: from a head to the one that its thread is likely to have next */
    const void *qkv, *out, *dout;
    const float *cosine, *sine;
    const int32_t *first;
    float *lse;
    void *to; /* out, and backward dqkv */
    float *memory;
    long numbers; /* of it for each thread */
} Task;

static Row row_of(const Task *a, long head) {
    const long row = head / a->A * a->T;
    const float *cosine = a->cosine + row * a->D, *sine = a->sine + row * a->D;
    return (Row){a->T, whole_tiles(a->T), a->D, 3 * a->A * a->D, cosine, sine, a->first + row};
}

/* One that is not there is the last. */
static Head head_number(const Task *a, long i) {
    const long last = a->B * a->A - 1, at = i < last ? i : last, b = at / a->A * a->T, H = a->A * a->D;
    return (Head){b * 3 * H + at % a->A * a->D, b * H + at % a->A * a->D};
}

/* Tokens beyond the last are 0. */
INLINE void fill_up(const Row *r, float *out) {
    memset(out + r->T * r->D, 0, (r->padded - r->T) * r->D * sizeof *out);
}

static void gather(const Row *r, const void *x, long at, int half, float *out) {
    for (long t = 0; t < r->T; t++)
        for (long i = 0; i < r->D; i += LANES)
            *(vec *)(out + t * r->D + i) = load(x, at + t * r->stride + i, half);
    fill_up(r, out);
}

/* Rotates every token's pairs (i, i + D/2) by its position, and scales. */
static void rotate(const Row *r, const void *x, long at, int half, float scale, float *out) {
    const long pair = r->D / 2;
    for (long t = 0; t < r->T; t++)
        for (long i = 0; i < pair; i += LANES) {
            const vec a = load(x, at + t * r->stride + i, half);
            const vec b = load(x, at + t * r->stride + pair + i, half);
            const vec c = *(const vec *)(r->cosine + t * r->D + i) * scale;
            const vec s = *(const vec *)(r->sine + t * r->D + i) * scale;
            *(vec *)(out + t * r->D + i) = a * c - b * s;
            *(vec *)(out + t * r->D + pair + i) = b * c + a * s;
        }
    fill_up(r, out);
}

/* The gradient of `rotate`, for tokens m .. m + rows - 1 of x: the opposite turn. */
static void rotate_back(const Row *r, long m, long rows, const float *x, float scale, void *out,
                        long at, int half) {
    const long pair = r->D / 2;
    for (long t = m; t < m + rows; t++)
        for (long i = 0; i < pair; i += LANES) {
            const vec a = *(const vec *)(x + (t - m) * r->D + i);
            const vec b = *(const vec *)(x + (t - m) * r->D + pair + i);
            const vec c = *(const vec *)(r->cosine + t * r->D + i) * scale;
            const vec s = *(const vec *)(r->sine + t * r->D + i) * scale;
            store(out, at + t * r->stride + i, a * c + b * s, half);
            store(out, at + t * r->stride + pair + i, b * c - a * s, half);
        }
}

static void scatter(const Row *r, const float *x, void *out, long at, int half) {
    for (long t = 0; t < r->T; t++)
        for (long i = 0; i < r->D; i += LANES)
            store(out, at + t * r->stride + i, *(const vec *)(x + t * r->D + i), half);
}

/* Tokens m .. m + rows - 1 of a head on their way into the cache, to be read or, with `write`, written.
 * The processor foresees no head; a few lines at a time, beside products, cost nothing. */
INLINE void fetch(const Row *r, long m, long rows, const void *x, long at, int half, const int write) {
    const long size = half ? sizeof(uint16_t) : sizeof(float);
    for (long t = m; t < m + rows; t++) {
        const char *token = (const char *)x + (at + t * r->stride) * size;
        for (long byte = 0; byte < r->D * size; byte += LINE)
            write ? claim_line(token + byte) : fetch_line(token + byte);
    }
}

/* Numbers of a vector outside from .. to become -INFINITY. */
INLINE void mask_vector(float *x, int32_t from, int32_t to) {
    ivec place;
    for (int lane = 0; lane < LANES; lane++) place[lane] = lane;
    const ivec outside = (place < from) | (place > to);
    *(vec *)x = choose(outside, (vec){0} - INFINITY, *(vec *)x);
}

/* Scores of keys outside from .. to become so small that their exp is 0. */
INLINE void mask(float *scores, long n, long from, long to) {
    for (long j = 0; j < from; j += LANES) mask_vector(scores + j, from - j, to - j);
    for (long j = (to + 1) / LANES * LANES; j < n; j += LANES)
        mask_vector(scores + j, from - j, to - j);
}

static void forward_head(void *task, long head, long thread) {
    const Task *a = task;
    const Row row = row_of(a, head), *r = &row;
    const Head at = head_number(a, head), next = head_number(a, head + a->step);
    const int half = (int)a->half;
    const void *qkv = a->qkv;
    void *out = a->to;
    float *lse = a->lse + head * a->T, *memory = a->memory + thread * a->numbers;
    const long T = r->T, padded = r->padded, D = r->D, H = r->stride / 3, TD = padded * D;
    float *Q = memory, *K = Q + TD, *V = K + TD, *Kt = V + TD, *S = Kt + TD;
    float *O = S + TILE_ROWS * padded;
    const Row outs = {T, padded, D, H, 0, 0, 0};
    rotate(r, qkv, at.q, half, 1.0f / sqrtf((float)D), Q);
    rotate(r, qkv, at.q + H, half, 1.0f, K);
    gather(r, qkv, at.q + 2 * H, half, V);
    transpose(padded, D, K, Kt);
    for (long m = 0; m < T; m += TILE_ROWS) {
        const long rows = T - m < TILE_ROWS ? T - m : TILE_ROWS;
        const long low = r->first[m] / TILE_COLUMNS * TILE_COLUMNS;
        const long n = whole_tiles(m + rows - low);
        fetch(r, m, rows, qkv, next.q, half, 0);
        product(rows, n, D, Q + m * D, D, 1, Kt + low, padded, S, n, 0);
        fetch(r, m, rows, qkv, next.q + H, half, 0);
        float inverse[TILE_ROWS];
        for (long i = 0; i < rows; i++) {
            float *scores = S + i * n;
            mask(scores, n, r->first[m + i] - low, m + i - low);
            const float top = largest(scores, n), sum = exponentials(scores, n, top);
            lse[m + i] = top + logf(sum);
            inverse[i] = 1.0f / sum;
        }
        fetch(r, m, rows, qkv, next.q + 2 * H, half, 0);
        fetch(&outs, m, rows, out, at.o, half, 1);
        product(rows, D, n, S, n, 1, V + low * D, D, O, D, 0);
        for (long i = 0; i < rows; i++)
            for (long j = 0; j < D; j += LANES)
                store(out, at.o + (m + i) * H + j, *(vec *)(O + i * D + j) * inverse[i], half);
    }
}

/* `work` for all heads, each thread with so many numbers of memory. */
static int all_heads(Task *a, long pool, long threads, long numbers, Work *work) {
    a->step = useful_threads(threads, a->B * a->A), a->numbers = (numbers + 15) / 16 * 16;
    a->memory = aligned_alloc(64, a->step * a->numbers * sizeof *a->memory);
    if (!a->memory) return 1;
    on_threads(pool, threads, a->B * a->A, work, a);
    free(a->memory);
    return 0;
}

int emo_attention_forward(long pool, long threads, long B, long T, long A, long D, long half,
                          const void *qkv, const float *cosine, const float *sine,
                          const int32_t *first, void *out, float *lse) {
    Task a = {B, T, A, D, half, 0, qkv, NULL, NULL, cosine, sine, first, lse, out};
    const long padded = whole_tiles(T);
    return all_heads(&a, pool, threads, 4 * padded * D + TILE_ROWS * (padded + D), forward_head);
}

/* From a block of queries: P = exp(scores - lse) and, in place of dP, the scores' gradient. */
INLINE void scores_backward(const Row *r, long m, long rows, long low, long n, const float *lse,
                            const float *O, const float *dO, float *P, float *dP) {
    for (long i = 0; i < rows; i++) {
        vec delta = {0};
        for (long j = 0; j < r->D; j += LANES)
            delta += *(const vec *)(O + (m + i) * r->D + j) *
                     *(const vec *)(dO + (m + i) * r->D + j);
        const float mean = sum_lanes(delta);
        mask(P + i * n, n, r->first[m + i] - low, m + i - low);
        exponentials(P + i * n, n, lse[m + i]);
        for (long j = 0; j < n; j += LANES) {
            vec *d = (vec *)(dP + i * n + j);
            *d = *(const vec *)(P + i * n + j) * (*d - mean);
        }
    }
}

static void backward_head(void *task, long head, long thread) {
    const Task *a = task;
    const Row row = row_of(a, head), *r = &row;
    const Head at = head_number(a, head), next = head_number(a, head + a->step);
    const int half = (int)a->half;
    const void *qkv = a->qkv, *out = a->out, *dout = a->dout;
    void *dqkv = a->to;
    const float *lse = a->lse + head * a->T;
    float *memory = a->memory + thread * a->numbers;
    const long T = r->T, padded = r->padded, D = r->D, H = r->stride / 3, TD = padded * D;
    const float scale = 1.0f / sqrtf((float)D);
    float *Q = memory, *K = Q + TD, *V = K + TD, *Kt = V + TD, *Vt = Kt + TD, *O = Vt + TD;
    float *dO = O + TD, *dK = dO + TD, *dV = dK + TD, *dQ = dV + TD, *P = dQ + BLOCK * D;
    float *dP = P + BLOCK * padded;
    const Row outs = {T, padded, D, H, 0, 0, 0};
    rotate(r, qkv, at.q, half, scale, Q);
    rotate(r, qkv, at.q + H, half, 1.0f, K);
    gather(r, qkv, at.q + 2 * H, half, V);
    gather(&outs, out, at.o, half, O);
    gather(&outs, dout, at.o, half, dO);
    transpose(padded, D, K, Kt);
    transpose(padded, D, V, Vt);
    memset(dK, 0, 2 * TD * sizeof *dK);
    for (long m = 0; m < T; m += BLOCK) {
        const long rows = T - m < BLOCK ? T - m : BLOCK;
        const long low = r->first[m] / TILE_COLUMNS * TILE_COLUMNS;
        const long n = whole_tiles(m + rows - low);
        fetch(r, m, rows, qkv, next.q, half, 0);
        fetch(r, m, rows, dqkv, at.q, half, 1);
        product(rows, n, D, Q + m * D, D, 1, Kt + low, padded, P, n, 0);
        fetch(r, m, rows, qkv, next.q + H, half, 0);
        product(rows, n, D, dO + m * D, D, 1, Vt + low, padded, dP, n, 0);
        fetch(r, m, rows, qkv, next.q + 2 * H, half, 0);
        scores_backward(r, m, rows, low, n, lse, O, dO, P, dP);
        fetch(&outs, m, rows, out, next.o, half, 0);
        product(rows, D, n, dP, n, 1, K + low * D, D, dQ, D, 0);
        fetch(r, m, rows, dqkv, at.q + H, half, 1);
        product(n, D, rows, P, 1, n, dO + m * D, D, dV + low * D, D, 1);
        fetch(r, m, rows, dqkv, at.q + 2 * H, half, 1);
        fetch(&outs, m, rows, dout, next.o, half, 0);
        product(n, D, rows, dP, 1, n, Q + m * D, D, dK + low * D, D, 1);
        rotate_back(r, m, rows, dQ, scale, dqkv, at.q, half);
    }
    rotate_back(r, 0, T, dK, 1.0f, dqkv, at.q + H, half);
    scatter(r, dV, dqkv, at.q + 2 * H, half);
}

/* dqkv, as qkv, is written whole. */
int emo_attention_backward(long pool, long threads, long B, long T, long A, long D, long half,
                           const void *qkv, const float *cosine, const float *sine,
                           const int32_t *first, const void *out, float *lse, const void *dout,
                           void *dqkv) {
    Task a = {B, T, A, D, half, 0, qkv, out, dout, cosine, sine, first, lse, dqkv};
    const long padded = whole_tiles(T);
    return all_heads(&a, pool, threads, 9 * padded * D + BLOCK * (D + 2 * padded), backward_head);
}
