/* Root-mean-square norm of rows on a CPU, fp32, forward and backward. H is a multiple of LANES. */
#include "simd.h"

/* y = x * inverse * w with inverse = 1 / sqrt(mean of x^2 + settings[0]), one a row. */
int emo_norm_forward(long N, long H, const float *x, const float *w, const float *settings,
                     float *y, float *inverse) {
    for (long n = 0; n < N; n++) {
        vec squares = {0};
        for (long i = 0; i < H; i += LANES) {
            const vec a = *(const vec *)(x + n * H + i);
            squares += a * a;
        }
        inverse[n] = 1.0f / sqrtf(sum_lanes(squares) / H + settings[0]);
        for (long i = 0; i < H; i += LANES)
            *(vec *)(y + n * H + i) =
                *(const vec *)(x + n * H + i) * inverse[n] * *(const vec *)(w + i);
    }
    return 0;
}

/* dx is written; dw [H] is added to. */
int emo_norm_backward(long N, long H, const float *x, const float *w, const float *inverse,
                      const float *dy, float *dx, float *dw) {
    for (long n = 0; n < N; n++) {
        const float s = inverse[n];
        vec along = {0};
        for (long i = 0; i < H; i += LANES) {
            const vec a = *(const vec *)(x + n * H + i), d = *(const vec *)(dy + n * H + i);
            along += a * d * *(const vec *)(w + i);
            *(vec *)(dw + i) += a * d * s;
        }
        const float pull = sum_lanes(along) * s * s / H;
        for (long i = 0; i < H; i += LANES)
            *(vec *)(dx + n * H + i) =
                (*(const vec *)(dy + n * H + i) * *(const vec *)(w + i) -
                 *(const vec *)(x + n * H + i) * pull) * s;
    }
    return 0;
}
