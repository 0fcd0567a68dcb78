#include "cpu/head_loss.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace lk::cpu {
namespace {

constexpr int64_t kSummed = 1024;  // exponentials that are summed in float32

// One chunk of rows that count: their inputs side by side, logits, then gradients of these in the same place.
class HeadChunk {
  public:
    HeadChunk(const KernelTable& kernels, Pool& pool, Workspace& memory, const HeadLoss& t, float* held)
        : kernels_(kernels), pool_(pool), memory_(memory), t_(t), x_(held) {
        h_ = x_ + t.chunk * t.n_embd, logits_ = h_ + t.chunk * t.rank;
    }

    static int64_t floats(const HeadLoss& t) { return t.chunk * (t.n_embd + t.rank + t.n_vocab); }

    void operator()(const int32_t* rows, int64_t n) {
        rows_ = rows, n_ = n;
        gather(t_.x, t_.n_embd, x_);
        if (t_.rank > 0) gather(t_.h, t_.rank, h_);
        forward();
        pool_.run(n, [&](int64_t i, int) { row(i); });
        if (!t_.dx) return;
        if (t_.weight_grad) add_outer(x_, t_.n_embd, t_.weight_grad);
        if (t_.b_grad) add_outer(h_, t_.rank, t_.b_grad);
        back();
    }

  private:
    Product product(int64_t m, int64_t n, int64_t k, Strided a, Right b, float* c, bool add) const {
        Product p{};
        p.m = m, p.n = n, p.k = k, p.a = a, p.b = b, p.c = c, p.c_row = n, p.add = add, p.pairs = t_.pairs;
        return p;
    }
    void multiply_to(const Product& p) { multiply(kernels_, pool_, memory_, p); }

    void gather(const float* from, int64_t width, float* to) const {
        for (int64_t i = 0; i < n_; ++i) std::memcpy(to + i * width, from + rows_[i] * width, size_t(width) * 4);
    }

    void forward() {
        if (t_.native)
            t_.native(x_, n_, logits_);
        else
            multiply_to(
                product(n_, t_.n_vocab, t_.n_embd, rows_of(x_, t_.n_embd), {{}, t_.weight, false}, logits_, false));
        if (t_.rank > 0)
            multiply_to(product(n_, t_.n_vocab, t_.rank, rows_of(h_, t_.rank), {{}, t_.b, false}, logits_, true));
    }

    // The loss of a row, and in place of its logits their gradient.
    void row(int64_t i) {
        float* logits = logits_ + i * t_.n_vocab;
        const int32_t r = rows_[i], target = t_.targets[r];
        const float top = kernels_.maximum(logits, t_.n_vocab);
        double total = 0.0;
        for (int64_t at = 0; at < t_.n_vocab; at += kSummed)
            total += double(kernels_.exp_sum(logits + at, top, std::min(kSummed, t_.n_vocab - at)));
        t_.loss[r] = float(double(top) + std::log(total) - double(logits[target]));
        if (!t_.dx) return;
        kernels_.exp_scale(logits, top, float(double(t_.weights[r]) / total), t_.n_vocab, logits);
        logits[target] -= t_.weights[r];
    }

    // into (n_vocab, width) += gradients of the logits, transposed, times `inputs`.
    void add_outer(const float* inputs, int64_t width, float* into) {
        multiply_to(product(t_.n_vocab, width, n_, transposed(rows_of(logits_, t_.n_vocab)),
                            {rows_of(inputs, width), nullptr, false}, into, true));
    }

    // Gradients of the inputs, in whose place they are made.
    void back() {
        multiply_to(product(n_, t_.n_embd, t_.n_vocab, rows_of(logits_, t_.n_vocab), {{}, t_.weight, true}, x_, false));
        scatter(x_, t_.n_embd, t_.dx);
        if (t_.rank == 0) return;
        multiply_to(product(n_, t_.rank, t_.n_vocab, rows_of(logits_, t_.n_vocab), {{}, t_.b, true}, h_, false));
        scatter(h_, t_.rank, t_.dh);
    }

    void scatter(const float* from, int64_t width, float* to) const {
        for (int64_t i = 0; i < n_; ++i) std::memcpy(to + rows_[i] * width, from + i * width, size_t(width) * 4);
    }

    const KernelTable& kernels_;
    Pool& pool_;
    Workspace& memory_;
    const HeadLoss& t_;
    float *x_, *h_, *logits_;
    const int32_t* rows_ = nullptr;
    int64_t n_ = 0;
};

}  // namespace

WorkspaceFloats head_loss_floats(const HeadLoss& task) {
    HeadLoss t = task;
    t.chunk = std::clamp<int64_t>(t.chunk, 1, std::max<int64_t>(t.n_row, 1));
    WorkspaceFloats most{0, HeadChunk::floats(t), 0};
    for (const int64_t inner : {t.n_embd, t.rank}) {
        if (inner == 0) continue;
        const WorkspaceFloats each[] = {product_floats(t.chunk, t.n_vocab, inner),
                                        product_floats(t.chunk, inner, t.n_vocab),
                                        product_floats(t.n_vocab, inner, t.chunk)};
        for (const WorkspaceFloats& one : each)
            most.shared = std::max(most.shared, one.shared), most.own = std::max(most.own, one.own);
    }
    return most;
}

void head_loss(const KernelTable& kernels, Pool& pool, Workspace& memory, const HeadLoss& task) {
    HeadLoss t = task;
    std::vector<int32_t> rows;
    for (int64_t r = 0; r < t.n_row; ++r)
        if (t.targets[r] >= 0 && t.weights[r] != 0.0f) rows.push_back(int32_t(r));
    const int64_t n = int64_t(rows.size());
    t.chunk = std::clamp<int64_t>(t.chunk, 1, std::max<int64_t>(n, 1));
    // x and dx may be one place: what does not count is cleared after all is read.
    HeadChunk chunk(kernels, pool, memory, t, memory.held(HeadChunk::floats(t)));
    std::fill_n(t.loss, t.n_row, 0.0f);
    for (int64_t at = 0; at < n; at += t.chunk) chunk(rows.data() + at, std::min(t.chunk, n - at));
    for (int64_t r = 0, next = 0; t.dx && r < t.n_row; ++r) {
        if (next < n && rows[size_t(next)] == r) {
            ++next;
            continue;
        }
        std::fill_n(t.dx + r * t.n_embd, t.n_embd, 0.0f);
        if (t.rank > 0) std::fill_n(t.dh + r * t.rank, t.rank, 0.0f);
    }
}

}  // namespace lk::cpu
