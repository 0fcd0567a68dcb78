// A thread that gets no processor, as on a busy machine: work that it has not begun is done without it.
#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>

#include "cpu/pool.h"

namespace {

sem_t go_on;
std::atomic<bool> held{false};

void hold(int) {
    held = true;
    while (sem_wait(&go_on) != 0) {
    }
}

}  // namespace

int main() {
    sem_init(&go_on, 0, 0);
    std::signal(SIGUSR1, hold);
    alarm(30);  // ends a run that waits for the thread that is held

    lk::cpu::Pool pool(2);
    std::atomic<pthread_t> other{0};
    while (!other)
        pool.run(2, [&](int64_t, int thread) {
            if (thread == 1) other = pthread_self();
            usleep(1000);
        });
    pthread_kill(other, SIGUSR1);
    while (!held) usleep(100);

    for (int round = 0; round < 100; ++round) {
        std::atomic<int64_t> sum{0};
        pool.run(100, [&](int64_t i, int thread) { sum += thread == 0 ? i : 1'000'000; });
        if (sum != 4950) {
            std::printf("round %d: sum %lld\n", round, static_cast<long long>(sum));
            return 1;
        }
    }
    sem_post(&go_on);
    std::atomic<bool> back{false};  // it takes part again
    while (!back)
        pool.run(2, [&](int64_t, int thread) {
            if (thread == 1) back = true;
            usleep(1000);
        });
    return 0;
}
