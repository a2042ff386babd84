/* Work shared among threads, piece by piece: each takes the next that nobody has begun. */
#ifndef EMO_THREADS_H
#define EMO_THREADS_H
#include <pthread.h>
#include <stdatomic.h>

#define MOST_THREADS 64

/* OpenMP's GOMP_parallel: work(task) on so many threads, this one among them. */
typedef void Pool(void (*work)(void *), void *task, unsigned threads, unsigned flags);

/* One piece; `thread` counts those at work from 0. */
typedef void Work(void *task, long piece, long thread);

typedef struct {
    Work *work;
    void *task;
    long pieces;
    atomic_long next, threads;
} Shared;

static void take_pieces(void *shared) {
    Shared *s = shared;
    const long thread = atomic_fetch_add(&s->threads, 1);
    for (long i; (i = atomic_fetch_add(&s->next, 1)) < s->pieces;) s->work(s->task, i, thread);
}

static void *start(void *shared) {
    take_pieces(shared);
    return NULL;
}

/* As many threads as there are pieces for, at least one. */
static inline long useful_threads(long threads, long pieces) {
    if (threads > pieces) threads = pieces;
    return threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
}

/* `pool` is the address of a Pool or 0. Its threads spin for a while after each of torch's operations,
 * and would compete with others; without it new ones are started, fewer if the system has no more. */
static void share(long pool, long threads, long pieces, Work *work, void *task) {
    Shared s = {work, task, pieces};
    threads = useful_threads(threads, pieces);
    if (pool && threads > 1) {
        ((Pool *)pool)(take_pieces, &s, (unsigned)threads, 0);
        return;
    }
    pthread_t started[MOST_THREADS];
    long running = 0;
    for (; running < threads - 1; running++)
        if (pthread_create(&started[running], NULL, start, &s)) break;
    take_pieces(&s);
    for (long t = 0; t < running; t++) pthread_join(started[t], NULL);
}

#endif
