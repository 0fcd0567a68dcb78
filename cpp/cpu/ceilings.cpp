#include "cpu/ceilings.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

namespace lk::cpu {
namespace {

constexpr int64_t kChunk = 1 << 20, kChunks = 256;  // 256 MiB: more than caches hold
constexpr int kReadings = 9;
constexpr double kSeconds = 0.02;  // that a rate is measured for, in as many readings at least

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

// The best of several readings: a neighbour's traffic only ever slows one down.
double read_bandwidth(const KernelTable& kernels, Pool& pool) {
    Arena memory(size_t(kChunk * kChunks));
    pool.use(pool.size());
    pool.run(kChunks, [&](int64_t i, int) { std::memset(memory.data() + i * kChunk, int(i), size_t(kChunk)); });
    volatile int64_t kept = 0;
    double best = 1e9;
    for (int i = 0; i < kReadings; ++i) {
        const double start = now();
        pool.run(kChunks, [&](int64_t c, int) { kept = kernels.read_all(memory.data() + c * kChunk, kChunk); });
        best = std::min(best, now() - start);
    }
    return double(kChunk * kChunks) / best;
}

// The best of many short readings: whoever else has the processor for a while slows down only those that fall into it.
double multiply_rate(const KernelTable& kernels, Pool& pool, ActForm form) {
    pool.use(pool.size());
    std::vector<double> rates(size_t(pool.size()));
    pool.run(pool.size(), [&](int64_t i, int) {
        const double begin = now();
        double start = begin;
        for (int reading = 0; start - begin < kSeconds || reading < kReadings; ++reading) {
            const double count = double(kernels.multiply(form, 20000)), end = now();
            rates[size_t(i)] = std::max(rates[size_t(i)], count / (end - start));
            start = end;
        }
    });
    double sum = 0.0;
    for (double rate : rates) sum += rate;
    return sum;
}

LinearAlone::LinearAlone(const KernelTable& kernels, const WeightView& w, const float* x, int64_t n_row)
    : y(size_t(n_row * w.n_out)),
      kernels_(kernels),
      scales_(size_t(n_row * w.n_in / 32 + 1)),
      sums_(size_t(n_row * w.n_in / 16 + 1)),
      starts_(sums_.size()),
      values_(size_t(n_row * (w.n_in + 1) * 4)) {
    const bool integer = w.kind == WeightKind::quantised;
    const int64_t tile = integer ? kernels.int_tile : kernels.float_tile;
    task_.weight = w, task_.y = y.data(), task_.ldy = w.n_out, task_.starts = starts_.data();
    task_.x = {w.form, n_row, w.n_in, values_.data(), scales_.data(), sums_.data()};
    for (int64_t r = 0; r < n_row; r += tile) {
        const int n = int(std::min(tile, n_row - r));
        kernels.prepare(x, w.n_in, r, n, task_.x);
        if (integer) kernels.start_sums(w.packing, task_.x, r, n, starts_.data());
    }
}

void LinearAlone::run() const {
    kernels_.linear(task_, 0, task_.x.n_rows, 0, (task_.weight.n_out + kLanes - 1) / kLanes);
}

double linear_seconds(const KernelTable& kernels, const Weight& weight, int64_t n_row, int64_t passes) {
    const WeightView& w = weight.view;
    if (w.data == nullptr || n_row < 1 || n_row > 512)
        throw std::invalid_argument("a packed matrix, and 1 to 512 rows");
    std::vector<float> x(size_t(n_row * w.n_in));
    for (size_t i = 0; i < x.size(); ++i) x[i] = float(int(i * 37 % 101) - 50) / 50.0f;
    const LinearAlone linear(kernels, w, x.data(), n_row);
    const double start = now();
    for (int64_t i = 0; i < passes; ++i) linear.run();
    return now() - start;
}

}  // namespace lk::cpu
