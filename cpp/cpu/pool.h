// Threads that wait for work together. The caller is one of them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace lk::cpu {

class Pool {
  public:
    explicit Pool(int n_thread);
    ~Pool();
    int n_thread() const { return n_thread_; }

    // Call body(chunk, thread) for every chunk below n; chunks are taken by whoever is free. Returns when all are done.
    void run(int64_t n, const std::function<void(int64_t, int)>& body);

  private:
    void work(int thread);
    void take(int thread);

    int n_thread_;
    std::vector<std::thread> threads_;
    const std::function<void(int64_t, int)>* body_ = nullptr;
    std::atomic<int64_t> next_{0};
    int64_t n_ = 0;
    std::atomic<uint32_t> epoch_{0};
    std::atomic<int> busy_{0};
    std::atomic<bool> stop_{false};
};

}  // namespace lk::cpu
