/* Root-mean-square norm of rows on a CPU, fp32, forward and backward. H is a multiple of LANES. */
#include "simd.h"
#include "threads.h"

#define ROWS 256 /* that a thread takes at a time */

typedef struct {
    long N, H;
    const float *x, *w, *dy;
    float epsilon, *inverse;
    float *to;      /* y, and backward dx */
    float *sums;    /* [pieces, H], the gradient of w by rows */
} Task;

static void forward_row(const Task *t, long n) {
    const long H = t->H;
    const float *x = t->x + n * H;
    vec squares = {0};
    for (long i = 0; i < H; i += LANES) squares += *(const vec *)(x + i) * *(const vec *)(x + i);
    const float inverse = 1.0f / sqrtf(sum_lanes(squares) / H + t->epsilon);
    for (long i = 0; i < H; i += LANES)
        *(vec *)(t->to + n * H + i) = *(const vec *)(x + i) * inverse * *(const vec *)(t->w + i);
    t->inverse[n] = inverse;
}

/* dw is added to. */
static void backward_row(const Task *t, long n, float *dw) {
    const long H = t->H;
    const float *x = t->x + n * H, *dy = t->dy + n * H, s = t->inverse[n];
    vec along = {0};
    for (long i = 0; i < H; i += LANES) {
        const vec a = *(const vec *)(x + i), d = *(const vec *)(dy + i);
        along += a * d * *(const vec *)(t->w + i);
        *(vec *)(dw + i) += a * d * s;
    }
    const float pull = sum_lanes(along) * s * s / H;
    for (long i = 0; i < H; i += LANES)
        *(vec *)(t->to + n * H + i) = (*(const vec *)(dy + i) * *(const vec *)(t->w + i) -
                                       *(const vec *)(x + i) * pull) * s;
}

static void forward_rows(void *task, long piece, long thread) {
    const Task *t = task;
    (void)thread;
    for (long n = piece * ROWS; n < (piece + 1) * ROWS && n < t->N; n++) forward_row(t, n);
}

static void backward_rows(void *task, long piece, long thread) {
    const Task *t = task;
    (void)thread;
    float *dw = t->sums + piece * t->H;
    memset(dw, 0, t->H * sizeof *dw);
    for (long n = piece * ROWS; n < (piece + 1) * ROWS && n < t->N; n++) backward_row(t, n, dw);
}

/* y = x * inverse * w with inverse = 1 / sqrt(mean of x^2 + settings[0]), one a row. */
int emo_norm_forward(long pool, long threads, long N, long H, const float *x, const float *w,
                     const float *settings, float *y, float *inverse) {
    Task t = {N, H, x, w, NULL, settings[0], inverse, y, NULL};
    on_threads(pool, threads, (N + ROWS - 1) / ROWS, forward_rows, &t);
    return 0;
}

/* dx is written; dw [H] is added to. */
int emo_norm_backward(long pool, long threads, long N, long H, const float *x, const float *w,
                      float *inverse, const float *dy, float *dx, float *dw) {
    const long pieces = (N + ROWS - 1) / ROWS;
    Task t = {N, H, x, w, dy, 0, inverse, dx, malloc((pieces + 1) * H * sizeof *dx)};
    if (!t.sums) return 1;
    on_threads(pool, threads, pieces, backward_rows, &t);
    for (long piece = 0; piece < pieces; piece++)
        for (long i = 0; i < H; i++) dw[i] += t.sums[piece * H + i];
    free(t.sums);
    return 0;
}
