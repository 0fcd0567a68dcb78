// A pool of threads whose work ends with exceptions: the caller gets one of them, and the pool goes on.
#include <atomic>
#include <cstdio>
#include <new>
#include <stdexcept>

#include "cpu/pool.h"

int main() {
    lk::cpu::Pool pool(4);
    for (int round = 0; round < 60; ++round) {
        const int64_t bad = round % 64;
        bool caught = false;
        try {
            pool.run(64, [&](int64_t i, int) {
                if (i == bad || round % 3 == 0) throw std::bad_alloc();
            });
        } catch (const std::bad_alloc&) {
            caught = true;
        }
        std::atomic<int64_t> sum{0};
        pool.run(100, [&](int64_t i, int) { sum += i; });
        if (!caught || sum != 4950) {
            std::printf("round %d: caught %d, sum %lld\n", round, caught, static_cast<long long>(sum));
            return 1;
        }
    }
    return 0;
}
