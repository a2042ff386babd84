/* What a router computes on a CPU besides its product, fp32: a pass a token, forward and backward.
 *
 * Letters: N tokens, E experts, R of them routed (the first), K routed slots a token. Logits are
 * [N, E]; scores, the softmax of what is allowed, [N, R]. R need not be a multiple of anything: a
 * row is worked off in memory of its own, `padded` to whole vectors.
 */
#include "simd.h"
#include "threads.h"

#define TOKENS 64 /* that a thread takes at a time */

/* Whole vectors, and lines of the cache. */
static long padded(long R) { return (R + 15) / 16 * 16; }

/* The vectors of a row, `fill` beyond its end. */
INLINE void take(long R, const float *from, float fill, float *row) {
    memcpy(row, from, R * sizeof *row);
    for (long i = R; i < padded(R); i++) row[i] = fill;
}

/* allowed, if given, has one byte an expert. */
INLINE void mask(long R, const uint8_t *allowed, float fill, float *row) {
    if (allowed)
        for (long i = 0; i < R; i++) row[i] = allowed[i] ? row[i] : fill;
}

/* The row's softmax in its place; returns the log of the sum of exp. */
INLINE float softmax(long R, float *row) {
    const long n = padded(R);
    const float top = largest(row, n), sum = exponentials(row, n, top);
    for (long i = 0; i < n; i += LANES) *(vec *)(row + i) /= sum;
    return top + logf(sum);
}

/* A bit for each lane, 1 where the mask is set. */
INLINE uint64_t bits(ivec mask) {
#if LANES == 16
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#elif LANES == 8
    return _mm256_movemask_ps((__m256)mask);
#else
    uint64_t set = 0;
    for (int lane = 0; lane < LANES; lane++) set |= (uint64_t)(mask[lane] & 1) << lane;
    return set;
#endif
}

/* Where the largest of n numbers is, the first of equal ones; n if all are NaN or -INFINITY. */
INLINE long place_of_largest(long n, const float *row) {
    const float top = largest(row, n);
    if (top == -INFINITY) return n;
    for (long i = 0; i < n; i += 64) {
        uint64_t equal = 0;
        for (long j = 0; j < 64 && i + j < n; j += LANES)
            equal |= bits(*(const vec *)(row + i + j) == top) << j;
        if (equal) return i + __builtin_ctzll(equal);
    }
    return n;
}

/* The lowest id that is none of the k that are taken. */
static long first_left(long k, const int64_t *taken) {
    for (long id = 0;; id++) {
        long i = 0;
        while (i < k && taken[i] != id) i++;
        if (i == k) return id;
    }
}

/* ids [K] of the largest numbers of a row, falling; equal ones go to the lower id, and NaN last. The
 * row, NaN beyond its end, becomes NaN where it was taken. */
INLINE void best_of(long R, long K, float *row, int64_t *best) {
    const long n = padded(R);
    for (long k = 0; k < K; k++) {
        long place = place_of_largest(n, row);
        if (place >= R) place = first_left(k, best);
        row[place] = NAN;
        best[k] = place;
    }
}

typedef struct Task {
    long N, E, R, K, stride;
    const float *logits;
    const uint8_t *allowed;
    float *scores, *lse;
    int64_t *ids;
    const int64_t *documents;
    const float *dscores, *dweights, *dlse;
    float *to; /* mass, and backward dlogits */
    void (*token)(const struct Task *, long n, float *row);
    long tokens; /* that a thread takes at a time */
    float *rows; /* two of each thread */
} Task;

static void some_tokens(void *task, long piece, long thread) {
    const Task *t = task;
    float *row = t->rows + thread * 2 * padded(t->R);
    for (long n = piece * t->tokens; n < (piece + 1) * t->tokens && n < t->N; n++)
        t->token(t, n, row);
}

/* `token` for all, each with memory for two rows. */
static int all_tokens(Task *t, long pool, long threads) {
    const long pieces = (t->N + t->tokens - 1) / t->tokens;
    const long rows = 2 * useful_threads(threads, pieces);
    t->rows = aligned_alloc(64, rows * padded(t->R) * sizeof *t->rows);
    if (!t->rows) return 1;
    on_threads(pool, threads, pieces, some_tokens, t);
    free(t->rows);
    return 0;
}

static void top_k(const Task *t, long n, float *row) {
    take(t->R, t->scores + n * t->R, NAN, row);
    best_of(t->R, t->K, row, t->ids + n * t->K);
}

int emo_top_k(long pool, long threads, long N, long R, long K, float *scores, int64_t *ids) {
    Task t = {.N = N, .R = R, .K = K, .scores = scores, .ids = ids, .token = top_k, .tokens = TOKENS};
    return all_tokens(&t, pool, threads);
}

static void add_mass(const Task *t, long n, float *row) {
    const long R = t->R;
    take(R, t->logits + n * t->E, -INFINITY, row);
    softmax(R, row);
    float *sums = t->to + t->documents[n] * R;
    for (long i = 0; i < R; i++) sums[i] += row[i];
}

/* mass[documents[n]] += softmax of the logits of token n, all allowed; mass has R numbers a row. Of every
 * `tokens` tokens, one after the other, none shares a document with any other. */
int emo_document_mass(long pool, long threads, long N, long tokens, long E, long R,
                      const float *logits, const int64_t *documents, float *mass) {
    Task t = {.N = N, .E = E, .R = R, .logits = logits, .documents = documents, .to = mass,
              .token = add_mass, .tokens = tokens ? tokens : 1};
    return all_tokens(&t, pool, threads);
}

static void route(const Task *t, long n, float *row) {
    const long R = t->R;
    const uint8_t *may = t->allowed ? t->allowed + n * t->stride : NULL;
    take(R, t->logits + n * t->E, -INFINITY, row);
    mask(R, may, -INFINITY, row);
    t->lse[n] = softmax(R, row);
    memcpy(t->scores + n * R, row, R * sizeof *row);
    for (long i = R; i < padded(R); i++) row[i] = NAN;
    mask(R, may, -INFINITY, row);
    best_of(R, t->K, row, t->ids + n * t->K);
}

/* allowed, if given, has one byte an expert and `stride` bytes from token to token. No expert that is
 * not allowed goes before one that is, however small its score. */
int emo_route_forward(long pool, long threads, long N, long E, long R, long K, long stride,
                      const float *logits, const uint8_t *allowed, float *scores, float *lse,
                      int64_t *ids) {
    Task t = {.N = N, .E = E, .R = R, .K = K, .stride = stride, .logits = logits, .allowed = allowed,
              .scores = scores, .lse = lse, .ids = ids, .token = route, .tokens = TOKENS};
    return all_tokens(&t, pool, threads);
}

/* d becomes s * (d + pull - sum of s * d), the gradient of logits whose softmax is s. */
INLINE void softmax_backward(long R, const float *s, float pull, float *d) {
    vec along = {0};
    for (long i = 0; i < padded(R); i += LANES) along += *(const vec *)(s + i) * *(vec *)(d + i);
    const float shift = pull - sum_lanes(along);
    for (long i = 0; i < padded(R); i += LANES)
        *(vec *)(d + i) = *(const vec *)(s + i) * (*(vec *)(d + i) + shift);
}

static void route_backward(const Task *t, long n, float *row) {
    const long R = t->R, K = t->K, E = t->E;
    float *d = row + padded(R);
    take(R, t->scores + n * R, 0, row);
    if (t->dscores) take(R, t->dscores + n * t->stride, 0, d);
    else memset(d, 0, padded(R) * sizeof *d);
    for (long k = 0; k < K; k++) d[t->ids[n * K + k]] += t->dweights[n * K + k];
    softmax_backward(R, row, t->dlse[n], d);
    memcpy(t->to + n * E, d, R * sizeof *d);
    memset(t->to + n * E + R, 0, (E - R) * sizeof *d);
}

/* dlogits [N, E] from the gradients of the scores (if given, `stride` numbers from token to token), of
 * the scores of the ids, and of lse; 0 for experts that are not routed. */
int emo_route_backward(long pool, long threads, long N, long E, long R, long K, long stride,
                       float *scores, int64_t *ids, const float *dscores, const float *dweights,
                       const float *dlse, float *dlogits) {
    Task t = {.N = N, .E = E, .R = R, .K = K, .stride = stride, .scores = scores, .ids = ids,
              .dscores = dscores, .dweights = dweights, .dlse = dlse, .to = dlogits,
              .token = route_backward, .tokens = TOKENS};
    return all_tokens(&t, pool, threads);
}
