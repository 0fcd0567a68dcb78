#include "cpu/program.h"

#include <algorithm>
#include <stdexcept>

namespace lk::cpu {

int64_t Operand::elements(const Run& run) const {
    int64_t n = 1;
    for (const Size& size : shape) n *= run.resolve(size);
    return n;
}

void check_range(const std::string& what, const int32_t* values, int64_t n, int64_t limit) {
    for (int64_t i = 0; i < n; ++i)
        if (values[i] < 0 || values[i] >= limit)
            throw std::invalid_argument(what + " " + std::to_string(values[i]) + " of row " + std::to_string(i) +
                                        " is outside 0.." + std::to_string(limit - 1));
}

Program::Program(std::shared_ptr<Pool> pool, const KernelTable* kernels, int64_t n_inputs, int64_t arena_bytes)
    : pool_(std::move(pool)), kernels_(kernels), inputs_(size_t(n_inputs) * 4), arena_(size_t(arena_bytes)) {}

void Program::add(std::unique_ptr<Step> step, bool sync) {
    step->sync = sync;
    scratch_bytes_ = std::max(scratch_bytes_, (step->scratch_bytes() + 4095) / 4096 * 4096);
    steps_.push_back(std::move(step));
    next_ = std::make_unique<std::atomic<int64_t>[]>(steps_.size());
    n_tasks_.resize(steps_.size());
}

void Program::run(int64_t rows, int64_t out_rows, int64_t seqs) {
    const size_t needed = size_t(scratch_bytes_) * size_t(pool_->size());
    if (scratch_.size() < needed) scratch_ = Arena(needed);
    const Run run = {kernels_, inputs(), arena_.data(), {0, rows, out_rows, seqs}, pool_->size()};
    for (const auto& step : steps_) {
        try {
            step->check(run);
        } catch (const std::invalid_argument& error) {
            throw std::invalid_argument("node " + step->name + ": " + error.what());
        }
    }
    for (size_t i = 0; i < steps_.size(); ++i) {
        n_tasks_[i] = steps_[i]->tasks(run);
        next_[i].store(0, std::memory_order_relaxed);
    }
    pool_->run([&](int thread) { work(run, thread); });
}

void Program::work(const Run& run, int thread) {
    uint8_t* scratch = scratch_.data() + thread * scratch_bytes_;
    for (size_t i = 0; i < steps_.size(); ++i) {
        if (steps_[i]->sync && i > 0) pool_->barrier();
        for (int64_t task; (task = next_[i].fetch_add(1, std::memory_order_relaxed)) < n_tasks_[i];)
            steps_[i]->work(run, task, scratch);
    }
}

}  // namespace lk::cpu
