// The way back through a mixture of experts: an expert after the other, for all rows that chose it.
#include <algorithm>
#include <cmath>

#include "cpu/gemm.h"
#include "cpu/program.h"

namespace lk::cpu {

// Of one expert: for the rows of `pairs` (row * n_used + which choice) gradients of x, which are added, and of shares.
// With h = activation(gate x) * (up x): d_share = (dy down) . h, and dx follows from share * (dy down).
void Program::expert_back(const Step& step, int64_t expert, const std::vector<int64_t>& pairs, float* memory,
                          double* d_share) {
    const Value &x = step.in[0], &dy = step.in[2];
    const int64_t n = int64_t(pairs.size()), n_in = x.width, n_out = dy.width, n_used = step.n_used;
    const int64_t n_expert = step.in[1].width, n_ff = step.parts[2].weight->view.n_in;
    WeightView weights[3];
    for (size_t i = 0; i < 3; ++i) weights[i] = expert_of(step.parts[i].weight->view, expert, n_expert);
    float *rows = memory, *d_rows = rows + n * n_in, *gate = d_rows + n * n_out, *up = gate + n * n_ff;
    float* d_hidden = up + n * n_ff;
    const auto multiply_to = [&](int64_t to, int64_t from, const float* a, size_t weight, bool back, float* c,
                                 bool add) {
        Product p{};
        p.m = n, p.n = to, p.k = from, p.a = rows_of(a, from), p.b = {{}, &weights[weight], back};
        p.c = c, p.c_row = to, p.add = add, p.pairs = pairs_;
        lk::cpu::multiply(kernels_, *pool_, memory_, p);
    };
    for_rows(n, n_in + n_out, [&](int64_t i) {
        const int64_t row = pairs[size_t(i)] / n_used;
        std::copy_n(at(x) + row * n_in, n_in, rows + i * n_in);
        std::copy_n(at(dy) + row * n_out, n_out, d_rows + i * n_out);
    });
    multiply_to(n_ff, n_in, rows, 0, false, gate, false);
    multiply_to(n_ff, n_in, rows, 1, false, up, false);
    multiply_to(n_ff, n_out, d_rows, 2, true, d_hidden, false);
    for_rows(n, n_ff * 16, [&](int64_t i) {
        const int64_t pair = pairs[size_t(i)];
        float *g = gate + i * n_ff, *u = up + i * n_ff, *d = d_hidden + i * n_ff, *hidden = rows + i * n_in;
        double sum = 0.0;
        for (int64_t from = 0; from < n_ff; from += n_in) {  // the row of x is read: its place takes the products
            const int64_t count = std::min(n_in, n_ff - from);
            kernels_.gated(g + from, u + from, step.gelu, count, hidden);
            for (int64_t k = 0; k < count; ++k) sum += double(d[from + k]) * double(hidden[k]);
        }
        d_share[pair] = sum;
        kernels_.scale(d, experts_.share[size_t(pair)], n_ff, d);
        kernels_.training->gated_back(g, u, d, step.gelu, n_ff, g, u);
    });
    multiply_to(n_in, n_ff, gate, 0, true, rows, false);
    multiply_to(n_in, n_ff, up, 1, true, rows, true);
    for_rows(n, n_in, [&](int64_t i) {
        float* to = at(step.outs[0]) + pairs[size_t(i)] / n_used * n_in;
        kernels_.add(rows + i * n_in, to, n_in, to);
    });
}

// Shares are a softmax of the chosen scores, or the chosen ones of a softmax of all.
void Program::scores_back(const Step& step, const double* d_share) {
    const Value& scores = step.in[1];
    const int64_t n_expert = scores.width, n_used = step.n_used;
    const Experts& e = experts_;
    for_rows(n_rows(scores), n_expert * 32, [&](int64_t row) {
        const float* s = at(scores) + row * n_expert;
        float* out = at(step.outs[1]) + row * n_expert;
        double inner = 0.0;
        for (int64_t k = row * n_used; k < (row + 1) * n_used; ++k) inner += double(e.share[size_t(k)]) * d_share[k];
        const int64_t best = e.chosen[size_t(row * n_used)];
        const double first = double(e.share[size_t(row * n_used)]);  // of the expert with the highest score
        for (int64_t i = 0; i < n_expert; ++i) {
            const double share = step.normalise ? 0.0 : first * std::exp(double(s[i]) - double(s[best]));
            out[i] = float(-share * inner);
        }
        for (int64_t k = row * n_used; k < (row + 1) * n_used; ++k)
            out[e.chosen[size_t(k)]] = float(double(e.share[size_t(k)]) * (d_share[k] - inner));
    });
}

void Program::experts_back(const Step& step) {
    const Value& x = step.in[0];
    const int64_t n = n_rows(x), n_expert = step.in[1].width;
    if (n == 0) return;
    route(step);
    std::fill_n(at(step.outs[0]), n * x.width, 0.0f);
    std::vector<double> d_share(experts_.chosen.size());
    std::vector<std::vector<int64_t>> pairs(static_cast<size_t>(n_expert));
    for (size_t i = 0; i < experts_.chosen.size(); ++i) pairs[size_t(experts_.chosen[i])].push_back(int64_t(i));
    float* memory = memory_.held(expert_back_floats(step, n));
    for (int64_t i = 0; i < n_expert; ++i)
        if (!pairs[size_t(i)].empty()) expert_back(step, i, pairs[size_t(i)], memory, d_share.data());
    scores_back(step, d_share.data());
}

int64_t expert_back_floats(const Step& step, int64_t n) {
    return n * (step.in[0].width + step.in[2].width + 3 * step.parts[2].weight->view.n_in);
}

}  // namespace lk::cpu
