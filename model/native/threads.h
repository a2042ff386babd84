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
    long pieces, most; /* most: threads that there is memory for */
    atomic_long next, threads;
} Team;

static void take_pieces(void *team) {
    Team *t = team;
    const long thread = atomic_fetch_add(&t->threads, 1);
    for (long i; thread < t->most && (i = atomic_fetch_add(&t->next, 1)) < t->pieces;)
        t->work(t->task, i, thread);
}

static void *start(void *team) {
    take_pieces(team);
    return NULL;
}

/* Of the threads that are asked for, how many can find a piece, from one to MOST_THREADS. */
static inline long useful_threads(long threads, long pieces) {
    if (threads > pieces) threads = pieces;
    return threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
}

/* `work` for all pieces, by useful_threads of them. `pool` is the address of a Pool or 0. Its threads
 * spin for a while after each of torch's operations, and would compete with others; it is asked for as
 * many as torch asks for, because those that are left out it ends. Without it new ones are started,
 * fewer if the system has no more. */
static void on_threads(long pool, long threads, long pieces, Work *work, void *task) {
    const long most = useful_threads(threads, pieces);
    Team team = {work, task, pieces, most};
    if (pool && most > 1) {
        ((Pool *)pool)(take_pieces, &team, (unsigned)threads, 0);
        return;
    }
    pthread_t started[MOST_THREADS];
    long running = 0;
    for (; running < most - 1; running++)
        if (pthread_create(&started[running], NULL, start, &team)) break;
    take_pieces(&team);
    for (long t = 0; t < running; t++) pthread_join(started[t], NULL);
}

#endif
