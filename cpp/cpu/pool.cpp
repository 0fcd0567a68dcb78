#include "cpu/pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lk::cpu {
namespace {

constexpr int kSpins = 4000;  // some 50 microseconds: longer than the gaps inside a step
constexpr int kYields = 200;  // then let others run; then sleep, since waking costs 20 microseconds

inline void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

void wait_while(const std::atomic<uint32_t>& value, uint32_t old) {
    for (int i = 0; i < kSpins; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
    }
    for (int i = 0; i < kYields; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        std::this_thread::yield();
    }
    value.wait(old, std::memory_order_acquire);
}

}  // namespace

void Barrier::wait() {
    if (n_ == 1) return;
    const uint32_t round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == n_ - 1) {
        arrived_.store(0, std::memory_order_relaxed);
        round_.store(round + 1, std::memory_order_release);
        round_.notify_all();
    } else {
        wait_while(round_, round);
    }
}

Pool::Pool(int n_thread) : n_thread_(n_thread), inner_(n_thread), done_(n_thread) {
    for (int i = 1; i < n_thread; ++i) threads_.emplace_back([this, i] { serve(i); });
}

Pool::~Pool() {
    stopping_.store(true);
    started_.fetch_add(1);
    started_.notify_all();
    for (auto& thread : threads_) thread.join();
}

void Pool::run(const std::function<void(int)>& work) {
    work_ = &work;
    started_.fetch_add(1, std::memory_order_release);
    started_.notify_all();
    work(0);
    done_.wait();
}

void Pool::serve(int thread) {
    for (uint32_t seen = 0;; ++seen) {
        wait_while(started_, seen);
        if (stopping_.load()) return;
        (*work_)(thread);
        done_.wait();
    }
}

}  // namespace lk::cpu
