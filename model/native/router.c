/* What a router computes on a CPU besides its product, fp32: a pass a token, forward and backward.
 *
 * Letters: N tokens, E experts, R of them routed (the first), K routed slots a token. Logits are
 * [N, E]; scores, the softmax of what is allowed, [N, R]. R need not be a multiple of anything: a
 * row is worked off in memory of its own, `padded` to whole vectors.
 */
#include "simd.h"

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

int emo_top_k(long N, long R, long K, const float *scores, int64_t *ids) {
    float *row = aligned_alloc(64, padded(R) * sizeof *row);
    if (!row) return 1;
    for (long n = 0; n < N; n++) {
        take(R, scores + n * R, NAN, row);
        best_of(R, K, row, ids + n * K);
    }
    free(row);
    return 0;
}

/* mass[documents[n]] += softmax of the logits of token n, all allowed; mass has R numbers a row. */
int emo_document_mass(long N, long E, long R, const float *logits, const int64_t *documents,
                      float *mass) {
    float *row = aligned_alloc(64, padded(R) * sizeof *row);
    if (!row) return 1;
    for (long n = 0; n < N; n++) {
        take(R, logits + n * E, -INFINITY, row);
        softmax(R, row);
        float *sums = mass + documents[n] * R;
        for (long i = 0; i < R; i++) sums[i] += row[i];
    }
    free(row);
    return 0;
}

/* allowed, if given, has one byte an expert and `stride` bytes from token to token. No expert that is
 * not allowed goes before one that is, however small its score. */
int emo_route_forward(long N, long E, long R, long K, long stride, const float *logits,
                      const uint8_t *allowed, float *scores, float *lse, int64_t *ids) {
    float *row = aligned_alloc(64, padded(R) * sizeof *row);
    if (!row) return 1;
    for (long n = 0; n < N; n++) {
        const uint8_t *may = allowed ? allowed + n * stride : NULL;
        take(R, logits + n * E, -INFINITY, row);
        mask(R, may, -INFINITY, row);
        lse[n] = softmax(R, row);
        memcpy(scores + n * R, row, R * sizeof *row);
        for (long i = R; i < padded(R); i++) row[i] = NAN;
        mask(R, may, -INFINITY, row);
        best_of(R, K, row, ids + n * K);
    }
    free(row);
    return 0;
}

/* d becomes s * (d + pull - sum of s * d), the gradient of logits whose softmax is s. */
INLINE void softmax_backward(long R, const float *s, float pull, float *d) {
    vec along = {0};
    for (long i = 0; i < padded(R); i += LANES) along += *(const vec *)(s + i) * *(vec *)(d + i);
    const float shift = pull - sum_lanes(along);
    for (long i = 0; i < padded(R); i += LANES)
        *(vec *)(d + i) = *(const vec *)(s + i) * (*(vec *)(d + i) + shift);
}

/* dlogits [N, E] from the gradients of the scores (if given), of the scores of the ids, and of lse;
 * 0 for experts that are not routed. */
int emo_route_backward(long N, long E, long R, long K, const float *scores, const int64_t *ids,
                       const float *dscores, const float *dweights, const float *dlse,
                       float *dlogits) {
    float *row = aligned_alloc(64, 2 * padded(R) * sizeof *row), *d = row + padded(R);
    if (!row) return 1;
    for (long n = 0; n < N; n++) {
        take(R, scores + n * R, 0, row);
        if (dscores) take(R, dscores + n * R, 0, d);
        else memset(d, 0, padded(R) * sizeof *d);
        for (long k = 0; k < K; k++) d[ids[n * K + k]] += dweights[n * K + k];
        softmax_backward(R, row, dlse[n], d);
        memcpy(dlogits + n * E, d, R * sizeof *d);
        memset(dlogits + n * E + R, 0, (E - R) * sizeof *d);
    }
    free(row);
    return 0;
}
