// The steps that training adds to a program.
#include <algorithm>
#include <cstring>

#include "cpu/attention_rows.h"
#include "cpu/gradients.h"
#include "cpu/head_loss.h"
#include "cpu/program.h"

namespace lk::cpu {

// Linears with their weights as float32 values; their norm, and what adapters add to each, was begun by `linears`.
void Program::plain_linears(const Step& step) {
    const Value& x = step.norm ? step.norm->out() : step.in[0];
    const int64_t n = n_rows(x);
    for (size_t i = 0; i < step.parts.size(); ++i) {
        const LinearPart& part = step.parts[i];
        const WeightView& w = part.weight->view;
        Product p{};
        p.pairs = pairs_;
        p.m = n, p.n = w.n_out, p.k = w.n_in, p.a = rows_of(at(x), x.width), p.b = {{}, &w, false};
        p.c = at(step.in.size() > 1 ? step.out() : part.out), p.c_row = w.n_out;
        p.bias = part.bias ? part.bias->vector : nullptr;
        lk::cpu::multiply(kernels_, *pool_, memory_, p);
        const int64_t n_panel = pieces_of(w.n_out, kLanes);
        run_on(*pool_, n * w.n_out < kSerialCost, pieces_of(n_panel, kPanelsPerChunk), [&](int64_t chunk, int thread) {
            const int64_t begin = chunk * kPanelsPerChunk, end = std::min(n_panel, begin + kPanelsPerChunk);
            deltas_[i].add(kernels_, begin, end, p.c, p.c_row, scratch_[size_t(thread)].data());
        });
    }
    if (step.gated) gate(step);
    if (step.in.size() < 2) return;
    const Value &other = step.in[1], &out = step.out();
    for_rows(n, out.width, [&](int64_t r) {
        kernels_.add(at(other) + r * out.width, at(out) + r * out.width, out.width, at(out) + r * out.width);
    });
}

void Program::matmul(const Step& step) {
    const Value &a = step.in[0], &b = step.in[1];
    Product p{};
    p.pairs = pairs_;
    p.m = n_rows(a), p.k = a.width, p.n = b.width;
    p.a = rows_of(at(a), a.width), p.b.values = rows_of(at(b), b.width);
    if (step.transpose_a) p.a = transposed(p.a), std::swap(p.m, p.k);
    if (step.transpose_b) p.b.values = transposed(p.b.values), p.n = n_rows(b);
    p.add = step.states[0] != nullptr;
    p.c = p.add ? step.states[0]->floats() : at(step.out()), p.c_row = p.n;
    lk::cpu::multiply(kernels_, *pool_, memory_, p);
}

void Program::linear_back(const Step& step) {
    const Value& dy = step.in[0];
    const WeightView& w = step.weight->view;
    Product p{};
    p.pairs = pairs_;
    p.m = n_rows(dy), p.n = w.n_in, p.k = w.n_out, p.a = rows_of(at(dy), dy.width), p.b = {{}, &w, true};
    p.c = at(step.out()), p.c_row = w.n_in;
    lk::cpu::multiply(kernels_, *pool_, memory_, p);
}

void Program::rms_norm_back(const Step& step) {
    const Value& x = step.in[0];
    const int64_t dim = x.width / x.n_head;
    lk::cpu::rms_norm_back(kernels_, *pool_, memory_, at(x), at(step.in[1]), step.weight->vector, step.epsilon,
                           n_rows(x) * x.n_head, dim, at(step.out()),
                           step.states[0] ? step.states[0]->floats() : nullptr);
}

void Program::layer_norm_back(const Step& step) {
    const Value& x = step.in[0];
    const int64_t dim = x.width / x.n_head;
    lk::cpu::layer_norm_back(kernels_, *pool_, memory_, at(x), at(step.in[1]), step.weight->vector, step.epsilon,
                             n_rows(x) * x.n_head, dim, at(step.out()),
                             step.states[0] ? step.states[0]->floats() : nullptr);
}

namespace {

RowsAttention rows_attention(const Step& step, int64_t n_row, const int32_t* sequences) {
    const Value &q = step.in[0], &k = step.in[1], &v = step.in[2];
    RowsAttention a{};
    a.n_row = n_row, a.n_head = q.n_head, a.n_head_kv = k.n_head;
    a.dim_k = k.width / k.n_head, a.dim_v = v.width / v.n_head;
    a.window = step.window, a.scale = step.factor, a.sequences = sequences;
    return a;
}

}  // namespace

void Program::attend_rows(const Step& step) {
    RowsAttention a = rows_attention(step, n_rows(step.in[0]), ints(step, 1));
    a.q = at(step.in[0]), a.k = at(step.in[1]), a.v = at(step.in[2]);
    lk::cpu::attend_rows(kernels_, *pool_, memory_, a, at(step.out()),
                         step.outs.size() > 1 ? at(step.outs[1]) : nullptr);
}

void Program::attention_back(const Step& step) {
    RowsAttention a = rows_attention(step, n_rows(step.in[0]), ints(step, 1));
    a.q = at(step.in[0]), a.k = at(step.in[1]), a.v = at(step.in[2]);
    attend_rows_back(kernels_, *pool_, memory_, a, at(step.in[3]), at(step.in[4]), at(step.in[5]), at(step.outs[0]),
                     at(step.outs[1]), at(step.outs[2]));
}

void Program::gated_back(const Step& step) {
    const int64_t width = step.out().width;
    const float *gate = at(step.in[0]), *up = at(step.in[1]), *dy = at(step.in[2]);
    for_rows(n_rows(step.out()), width * 8, [&](int64_t r) {
        const int64_t from = r * width;
        kernels_.training->gated_back(gate + from, up + from, dy + from, step.gelu, width, at(step.outs[0]) + from,
                                      at(step.outs[1]) + from);
    });
}

void Program::scatter_rows(const Step& step) {
    const Value& dy = step.in[0];
    float* into = step.states[0] ? step.states[0]->floats() : at(step.out());
    if (!step.states[0]) std::fill_n(into, n_rows(step.out()) * dy.width, 0.0f);
    lk::cpu::scatter_rows(kernels_, *pool_, at(dy), ints(step, 0), n_rows(dy), dy.width, into);
}

void Program::sum_rows(const Step& step) {
    const Value& x = step.in[0];
    lk::cpu::sum_rows(kernels_, *pool_, at(x), n_rows(x), x.width, step.states[0]->floats());
}

void Program::head_loss(const Step& step) {
    const Value& x = step.in[0];
    HeadLoss t{};
    t.pairs = pairs_;
    t.n_row = n_rows(x), t.n_embd = x.width, t.n_vocab = step.weight->view.n_out, t.chunk = step.chunk;
    t.x = at(x), t.targets = ints(step, 0), t.weights = at(step.in[1]), t.weight = &step.weight->view;
    t.loss = at(step.outs[0]);
    const bool back = step.outs.size() > 1;
    if (back) t.dx = at(step.outs[1]);
    if (step.other) {
        t.h = at(step.in[2]), t.rank = step.in[2].width, t.b = &step.other->view;
        if (back) t.dh = at(step.outs[2]);
    }
    if (has_rounded_inputs(step))
        t.native = [&](const float* x_rows, int64_t n, float* y) { multiply_native(*t.weight, x_rows, n, y); };
    t.weight_grad = step.states[0] ? step.states[0]->floats() : nullptr;
    t.b_grad = step.states[1] ? step.states[1]->floats() : nullptr;
    lk::cpu::head_loss(kernels_, *pool_, memory_, t);
}

void Program::run_map(const Step& step) {
    std::vector<State*> states;
    for (const auto& state : step.states) states.push_back(state.get());
    step.map->run(kernels_, *pool_, memory_, states, step.in.empty() ? nullptr : at(step.in[0]));
}

void Program::reduce(const Step& step) {
    at(step.out())[0] = float(lk::cpu::reduce(kernels_, *pool_, memory_, *step.states[0], step.reduction));
}

}  // namespace lk::cpu
