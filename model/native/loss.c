/* Next-token loss of a block of logits on a CPU: softmax, loss and gradient in one pass a row. */
#include "simd.h"
#include "threads.h"

#define ROWS 16 /* that a thread takes at a time */

typedef struct {
    long rows, V, half;
    void *logits;
    const int64_t *labels;
    const float *scales;
    float *widened; /* [threads, V] */
    double *losses; /* of each piece */
} Task;

static double one_row(const Task *t, long m, float *widened) {
    const long V = t->V;
    const float *scales = t->scales;
    float *row = t->half ? widened : (float *)t->logits + m * V;
    for (long j = 0; t->half && j < V; j += LANES) *(vec *)(row + j) = load(t->logits, m * V + j, 1);
    const float label_logit = row[t->labels[m]], top = largest(row, V);
    const float exps = exponentials(row, V, top), lse = top + logf(exps);
    const float weight = scales[0] * (1 + 2 * scales[1] * lse) / exps;
    row[t->labels[m]] -= scales[0] / weight;
    for (long j = 0; j < V; j += LANES)
        store(t->logits, m * V + j, *(vec *)(row + j) * weight, (int)t->half);
    return lse - label_logit + scales[1] * lse * lse;
}

static void some_rows(void *task, long piece, long thread) {
    const Task *t = task;
    double sum = 0;
    for (long m = piece * ROWS; m < (piece + 1) * ROWS && m < t->rows; m++)
        sum += one_row(t, m, t->widened + thread * t->V);
    t->losses[piece] = sum;
}

/* logits [rows, V] (floats or, with `half`, bf16) become the gradient of
 * scales[0] * sum over rows of (-log p(label) + scales[1] * lse^2), lse = log-sum-exp of the row;
 * *loss gets that sum, without scales[0]. V is a multiple of 16. */
int emo_cross_entropy(long pool, long threads, long rows, long V, long half, void *logits,
                      const int64_t *labels, const float *scales, float *loss) {
    const long pieces = (rows + ROWS - 1) / ROWS;
    Task t = {rows, V, half, logits, labels, scales};
    t.widened = aligned_alloc(64, useful_threads(threads, pieces) * V * sizeof *t.widened);
    t.losses = malloc((pieces + 1) * sizeof *t.losses);
    const int failed = !t.widened || !t.losses;
    if (!failed) {
        double total = 0;
        on_threads(pool, threads, pieces, some_rows, &t);
        for (long i = 0; i < pieces; i++) total += t.losses[i];
        *loss = (float)total;
    }
    free(t.widened);
    free(t.losses);
    return failed;
}
