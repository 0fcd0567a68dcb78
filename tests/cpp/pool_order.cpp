// The pool under ThreadSanitizer: runs of all sizes and numbers of threads, one after the other and by several owners.
#include "cpu/pool.h"

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <thread>
#include <vector>

namespace {

// Every chunk is done once, by a thread that takes part, and is seen when `run` returns.
void check(lk::cpu::Pool& pool, int64_t n) {
    std::vector<int64_t> done(n);  // plain memory: what the pool does must be enough to order its uses
    pool.run(n, [&](int64_t chunk, int thread) {
        if (thread < 0 || thread >= pool.n_thread()) std::abort();
        done[chunk] += chunk + 1;
    });
    if (std::accumulate(done.begin(), done.end(), int64_t{0}) != n * (n + 1) / 2) std::abort();
}

void owner(int n_thread, int rounds) {
    lk::cpu::Pool pool(n_thread);
    for (int i = 0; i < rounds; i++) {
        pool.use(1 + i % n_thread);
        check(pool, i % 97);
    }
}

}  // namespace

int main(int argc, char** argv) {
    int rounds = argc > 1 ? std::atoi(argv[1]) : 300;
    for (int n_thread : {1, 2, 4, 7}) owner(n_thread, rounds);
    std::vector<std::thread> owners;  // pools of their own, side by side
    for (int i = 0; i < 3; i++) owners.emplace_back(owner, 3, rounds);
    for (auto& each : owners) each.join();
    std::puts("ordered");
}
