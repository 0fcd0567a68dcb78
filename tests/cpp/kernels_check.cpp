// Checks the kernels of instruction sets in one program of their own, so that they can run under an emulator without
// Python: `kernels_check` names what it has, `kernels_check NAME...` checks these, emulated or not.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "cpu/attention_rows.h"
#include "cpu/ceilings.h"
#include "cpu/dispatch.h"
#include "cpu/gemm.h"
#include "cpu/gradients.h"
#include "cpu/kv_cache.h"
#include "cpu/pack.h"
#include "cpu/pool.h"
#include "cpu/types.h"
#include "formats/half.h"
#include "formats/quants.h"

using namespace lk::cpu;
using namespace lk::formats;

namespace {

using Vector = std::vector<float>;

int n_check = 0, n_wrong = 0;

struct Random {
    uint64_t state = 88172645463325252u;
    uint64_t next() {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        return state;
    }
    float number() { return float(int64_t(next() % 2000001) - 1000000) / 1e6f; }
    Vector numbers(size_t n) {
        Vector x(n);
        for (float& each : x) each = number();
        return x;
    }
};

// Largest difference, relative to the norm of what is right.
void expect_close(const char* isa, const std::string& what, const Vector& found, const std::vector<double>& right,
                  double bound) {
    double norm = 0.0, worst = 0.0;
    for (double x : right) norm += x * x;
    norm = std::sqrt(norm / double(right.size())) + 1e-30;
    for (size_t i = 0; i < right.size(); ++i) {
        const double off = std::fabs(double(found[i]) - right[i]);
        worst = off > worst || std::isnan(off) ? off : worst;
    }
    ++n_check;
    if (worst <= bound * norm) return;
    ++n_wrong;
    std::printf("%s %s: off by %g of the norm, at most %g\n", isa, what.c_str(), worst / norm, bound);
}

void expect_same(const char* isa, const std::string& what, const float* a, const float* b, size_t n) {
    ++n_check;
    if (std::memcmp(a, b, n * 4) == 0) return;
    ++n_wrong;
    std::printf("%s %s: other bits\n", isa, what.c_str());
}

// The rows of a tensor in GGUF's blocks.
std::vector<uint8_t> blocks(int type, const Vector& values, int64_t n_in, Random& random) {
    const int64_t row = row_bytes(type, n_in), n_row = int64_t(values.size()) / n_in;
    std::vector<uint8_t> bytes(size_t(row * n_row));
    const bool grid = type == IQ1_S || type == IQ2_XXS || type == IQ3_XXS || type == IQ3_S;
    for (int64_t r = 0; r < n_row && !grid; ++r)
        quantize_row(type, &values[size_t(r * n_in)], &bytes[size_t(r * row)], n_in);
    if (grid) {  // nothing encodes them: any bytes will do, but for the scale in front
        for (uint8_t& byte : bytes) byte = uint8_t(random.next() >> 20);
        for (size_t i = 0; i < bytes.size(); i += size_t(traits(type)->type_size)) bytes[i] = 0, bytes[i + 1] = 0x24;
    }
    return bytes;
}

// y = x W^T by a table.
Vector linear(const KernelTable& table, const Weight& weight, const Vector& x, int64_t n_row) {
    LinearAlone alone(table, weight.view, x.data(), n_row);
    alone.run();
    return alone.y;
}

void check_linear(const KernelTable& table, int type) {
    const std::string name = traits(type)->name;
    Random random;
    Pool pool(1);
    const int64_t n_out = 35, n_in = 512;
    const auto bytes = blocks(type, random.numbers(size_t(n_out * n_in)), n_in, random);
    Weight weight(type, n_out, n_in, false);
    weight.append(bytes.data(), bytes.size(), pool);
    weight.finish(pool);
    Vector w(size_t(n_out * n_in)), row(size_t(n_in), 0.0f);
    for (int64_t r = 0; r < n_out; ++r)
        dequantize_row(type, &bytes[size_t(r * row_bytes(type, n_in))], &w[size_t(r * n_in)], n_in);
    table.weight_row(weight.view, 17, row.data());
    expect_close(table.name, name + " row", row, std::vector<double>(&w[17 * 512], &w[18 * 512]), 1e-6);

    const int64_t most = 2 * 12 + 5;  // two tiles of any size, and a rest
    const Vector x = random.numbers(size_t(most * n_in)), all = linear(table, weight, x, most);
    std::vector<double> right;
    for (int64_t r = 0; r < most; ++r)
        for (int64_t o = 0; o < n_out; ++o) {
            double sum = 0.0;
            for (int64_t k = 0; k < n_in; ++k) sum += double(x[size_t(r * n_in + k)]) * double(w[size_t(o * n_in + k)]);
            right.push_back(sum);
        }
    const double operand = weight.view.kind == WeightKind::quantised ? 0.05 : type == BF16 ? 0.02 : 1e-5;
    expect_close(table.name, name, all, right, operand);
    const Vector plain = linear(kernels("generic"), weight, x, most);  // the same roundings, but for fused additions
    expect_close(table.name, name + " beside generic", all, std::vector<double>(plain.begin(), plain.end()),
                 type == BF16 ? 0.02 : 2e-5);
    for (int64_t n = 1; n <= 13; ++n) {
        const Vector some = linear(table, weight, x, n);
        expect_same(table.name, name + " of " + std::to_string(n) + " rows", some.data(), all.data(),
                    size_t(n * n_out));
    }
}

double to_bfloat(float x) {
    return double(bfloat_to_float(float_to_bfloat(x)));
}

// C = A B by a table and by the definition, either side as it comes.
void check_product(const KernelTable& table, int64_t m, int64_t n, int64_t k, const Strided& a, const Right& b,
                   const std::vector<double>& b_values, const std::string& what) {
    Random random;
    Pool pool(1);
    Workspace memory(1);
    Vector c = random.numbers(size_t(m * n));
    for (bool add : {false, true}) {
        std::vector<double> right;
        for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < n; ++j) {
                double sum = add ? double(c[size_t(i * n + j)]) : 0.0;
                for (int64_t l = 0; l < k; ++l)
                    sum += double(a.data[i * a.row + l * a.column]) * b_values[size_t(l * n + j)];
                right.push_back(sum);
            }
        Product p{};
        p.m = m, p.n = n, p.k = k, p.a = a, p.b = b, p.c = c.data(), p.c_row = n, p.add = add;
        multiply(table, pool, memory, p);
        expect_close(table.name, what + (add ? " added" : ""), c, right, 1e-5);
        if (add) continue;
        p.pairs = true;
        std::vector<double> rounded;
        for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < n; ++j) {
                double sum = 0.0;
                for (int64_t l = 0; l < k; ++l)
                    sum += to_bfloat(a.data[i * a.row + l * a.column]) * to_bfloat(float(b_values[size_t(l * n + j)]));
                rounded.push_back(sum);
            }
        multiply(table, pool, memory, p);
        expect_close(table.name, what + " of bfloat16", c, rounded, 1e-5);
    }
}

void check_products(const KernelTable& table) {
    Random random;
    for (const auto& [m, n, k] : {std::array<int64_t, 3>{67, 70, 300}, {7, 100, 33}, {80, 5, 260}}) {
        const Vector a = random.numbers(size_t(m * k)), b = random.numbers(size_t(k * n));
        for (int sides = 0; sides < 4; ++sides) {
            const Strided left = sides % 2 ? Strided{a.data(), 1, m} : Strided{a.data(), k, 1};
            const Strided values = sides / 2 ? Strided{b.data(), 1, k} : Strided{b.data(), n, 1};
            std::vector<double> right;
            for (int64_t l = 0; l < k; ++l)
                for (int64_t j = 0; j < n; ++j) right.push_back(double(b[size_t(l * values.row + j * values.column)]));
            check_product(table, m, n, k, left, {values, nullptr, false}, right, "product " + std::to_string(sides));
        }
    }
}

// Products with the values of a weight, transposed and not.
void check_weight_products(const KernelTable& table, int type) {
    Random random;
    Pool pool(1);
    const int64_t n_out = 35, n_in = 512, m = 9;
    const auto bytes = blocks(type, random.numbers(size_t(n_out * n_in)), n_in, random);
    Weight weight(type, n_out, n_in, false);
    weight.append(bytes.data(), bytes.size(), pool);
    weight.finish(pool);
    Vector w(size_t(n_out * n_in));
    for (int64_t r = 0; r < n_out; ++r)
        dequantize_row(type, &bytes[size_t(r * row_bytes(type, n_in))], &w[size_t(r * n_in)], n_in);
    std::vector<double> forward, back(w.begin(), w.end());
    for (int64_t k = 0; k < n_in; ++k)
        for (int64_t o = 0; o < n_out; ++o) forward.push_back(double(w[size_t(o * n_in + k)]));
    const Vector x = random.numbers(size_t(m * n_in)), dy = random.numbers(size_t(m * n_out));
    const std::string name = traits(type)->name;
    check_product(table, m, n_out, n_in, rows_of(x.data(), n_in), {{}, &weight.view, false}, forward, name + " values");
    check_product(table, m, n_in, n_out, rows_of(dy.data(), n_out), {{}, &weight.view, true}, back, name + " back");
}

struct Attended {
    KVType type;
    int n_row, n_head, n_head_kv, dim;
    int32_t past, window;
};

void check_attention(const KernelTable& table, const Attended& c) {
    Random random;
    const int64_t n_key = c.past + c.n_row, width = int64_t(c.n_head_kv) * c.dim, block = 32;
    const int64_t n_block = (n_key + block - 1) / block;
    KVCache kv(c.type, {{c.n_head_kv, c.dim, c.dim}}, n_block, block);
    std::vector<int32_t> table_of_blocks;
    for (int64_t b = 0; b < n_block; ++b) table_of_blocks.push_back(int32_t(n_block - 1 - b));
    Vector k = random.numbers(size_t(n_key * width)), v = random.numbers(size_t(n_key * width));
    const auto cell = [&](int64_t i) { return table_of_blocks[size_t(i / block)] * block + i % block; };
    for (int64_t i = 0; i < n_key; ++i)
        table.kv_write(kv.layers[0], cell(i), &k[size_t(i * width)], &v[size_t(i * width)]);
    for (int64_t i = 0; i < n_key; ++i)
        table.kv_read(kv.layers[0], cell(i), &k[size_t(i * width)], &v[size_t(i * width)]);

    const int group = c.n_head / c.n_head_kv;
    const size_t q_width = size_t(c.n_head * c.dim);
    const Vector q = random.numbers(size_t(c.n_row) * q_width);
    Vector out(q.size());
    std::vector<const float*> queries;
    std::vector<float*> outputs;
    std::vector<int32_t> first, last;
    for (int r = 0; r < c.n_row; ++r) {
        queries.push_back(&q[size_t(r) * q_width]), outputs.push_back(&out[size_t(r) * q_width]);
        last.push_back(c.past + r + 1);
        first.push_back(c.window > 0 ? std::max(0, last.back() - c.window) : 0);
    }
    Vector scratch(size_t(table.attend_scratch(int64_t(c.n_row) * group, c.dim, c.dim)) + 64);
    float* memory = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64) / 4;
    for (int head = 0; head < c.n_head_kv; ++head) {
        AttendTask a{};
        a.keys = {&kv.layers[0], table_of_blocks.data(), int32_t(block)};
        a.n_rows = c.n_row, a.group = group, a.n_head = c.n_head, a.n_head_kv = c.n_head_kv, a.head_kv = head;
        a.dim_k = a.dim_v = c.dim, a.scale = 0.3f;
        a.q = queries.data(), a.out = outputs.data(), a.first = first.data(), a.last = last.data();
        a.split_begin = first[0] / kSplit, a.split_end = int32_t((n_key + kSplit - 1) / kSplit);
        a.first_part = a.split_begin;
        table.attend(a, memory);
    }
    std::vector<double> right;
    for (int r = 0; r < c.n_row; ++r)
        for (int h = 0; h < c.n_head; ++h) {
            const auto at = [&](const Vector& x, int64_t i, int d) {
                return double(x[size_t(i * width + int64_t(h / group) * c.dim + d)]);
            };
            std::vector<double> weights, sums(size_t(c.dim), 0.0);
            double total = 0.0;
            for (int64_t i = first[size_t(r)]; i < last[size_t(r)]; ++i) {
                double s = 0.0;
                for (int d = 0; d < c.dim; ++d) s += double(queries[size_t(r)][h * c.dim + d]) * at(k, i, d);
                weights.push_back(std::exp(0.3 * s));
                total += weights.back();
                for (int d = 0; d < c.dim; ++d) sums[size_t(d)] += weights.back() * at(v, i, d);
            }
            for (double sum : sums) right.push_back(sum / total);
        }
    const std::string what = "attention kv " + std::to_string(int(c.type)) + " rows " + std::to_string(c.n_row) +
                             " heads " + std::to_string(c.n_head) + " past " + std::to_string(c.past);
    expect_close(table.name, what, out, right, c.type == KVType::bf16 ? 0.02 : 1e-4);
}

void check_rows(const KernelTable& table) {
    Random random;
    const int64_t n = 133;
    const Vector x = random.numbers(n), w = random.numbers(n);
    Vector y(n);
    std::vector<double> right(n);
    double squares = 0.0, sum = 0.0;
    for (float each : x) squares += double(each) * double(each), sum += std::exp(double(each) - 1.0);
    table.rms_norm(x.data(), w.data(), nullptr, 0.0f, 1e-5f, n, y.data());
    for (size_t i = 0; i < right.size(); ++i)
        right[i] = double(x[i]) * double(w[i]) / std::sqrt(squares / double(n) + 1e-5);
    expect_close(table.name, "rms_norm", y, right, 1e-5);
    table.gated(x.data(), w.data(), false, n, y.data());
    for (size_t i = 0; i < right.size(); ++i) right[i] = double(x[i]) / (1.0 + std::exp(-double(x[i]))) * double(w[i]);
    expect_close(table.name, "silu", y, right, 1e-5);
    expect_close(table.name, "exp_sum", {table.exp_sum(x.data(), 1.0f, n)}, {sum}, 1e-5);
}

struct AmongRows {
    int64_t n, n_head, n_head_kv, dim, window;
};

// Attention without a cache and its gradients, two sequences among each other, by the definition in double.
void check_attention_rows(const KernelTable& table, const AmongRows& c) {
    Random random;
    Pool pool(1);
    Workspace memory(1);
    const int64_t n = c.n, group = c.n_head / c.n_head_kv;
    const size_t wide = size_t(n * c.n_head * c.dim), narrow = size_t(n * c.n_head_kv * c.dim);
    const Vector q = random.numbers(wide), k = random.numbers(narrow), v = random.numbers(narrow),
                 dout = random.numbers(wide);
    std::vector<int32_t> sequences;
    for (int64_t r = 0; r < n; ++r) sequences.push_back(r % 3 == 0);
    std::vector<double> out(wide), lse(size_t(n * c.n_head)), dq(wide), dk(narrow), dv(narrow);
    for (int64_t h = 0; h < c.n_head; ++h)
        for (int64_t r = 0; r < n; ++r) {
            const size_t at = size_t((r * c.n_head + h) * c.dim);
            std::vector<int64_t> keys;
            for (int64_t i = r; i >= 0 && (c.window == 0 || int64_t(keys.size()) < c.window); --i)
                if (sequences[size_t(i)] == sequences[size_t(r)]) keys.push_back(i);
            const auto key = [&](int64_t i) { return size_t((i * c.n_head_kv + h / group) * c.dim); };
            std::vector<double> p;
            double total = 0.0, inner = 0.0;
            for (int64_t i : keys) {
                double s = 0.0;
                for (size_t d = 0; d < size_t(c.dim); ++d) s += double(q[at + d]) * double(k[key(i) + d]);
                p.push_back(std::exp(0.3 * s));
                total += p.back();
            }
            lse[size_t(r * c.n_head + h)] = std::log(total);
            for (size_t j = 0; j < keys.size(); ++j)
                for (size_t d = 0; d < size_t(c.dim); ++d) out[at + d] += p[j] / total * double(v[key(keys[j]) + d]);
            for (size_t d = 0; d < size_t(c.dim); ++d) inner += out[at + d] * double(dout[at + d]);
            for (size_t j = 0; j < keys.size(); ++j) {
                double dp = 0.0;
                for (size_t d = 0; d < size_t(c.dim); ++d) dp += double(dout[at + d]) * double(v[key(keys[j]) + d]);
                const double w = p[j] / total, ds = 0.3 * w * (dp - inner);
                for (size_t d = 0; d < size_t(c.dim); ++d) {
                    dq[at + d] += ds * double(k[key(keys[j]) + d]);
                    dk[key(keys[j]) + d] += ds * double(q[at + d]);
                    dv[key(keys[j]) + d] += w * double(dout[at + d]);
                }
            }
        }
    RowsAttention a{n,    c.n_head,         c.n_head_kv, c.dim,    c.dim,   c.window,
                    0.3f, sequences.data(), q.data(),    k.data(), v.data()};
    Vector found(wide), found_lse(lse.size()), to_q(wide), to_k(narrow), to_v(narrow);
    attend_rows(table, pool, memory, a, found.data(), found_lse.data());
    attend_rows_back(table, pool, memory, a, found.data(), found_lse.data(), dout.data(), to_q.data(), to_k.data(),
                     to_v.data());
    const std::string what = "attention of " + std::to_string(n) + " rows";
    expect_close(table.name, what, found, out, 1e-4);
    expect_close(table.name, what + ": log-sum-exp", found_lse, lse, 1e-5);
    expect_close(table.name, what + ": dq", to_q, dq, 1e-4);
    expect_close(table.name, what + ": dk", to_k, dk, 1e-4);
    expect_close(table.name, what + ": dv", to_v, dv, 1e-4);
}

void check_gradients(const KernelTable& table) {
    Random random;
    const int64_t n = 133;
    const Vector x = random.numbers(n), w = random.numbers(n), dy = random.numbers(n);
    Vector one(n), two(n);
    std::vector<double> right(n), other(n);
    double squares = 0.0, along = 0.0;
    for (size_t i = 0; i < right.size(); ++i)
        squares += double(x[i]) * double(x[i]), along += double(x[i]) * double(w[i]) * double(dy[i]);
    const double factor = 1.0 / std::sqrt(squares / double(n) + 1e-5);
    table.training->norm_back(x.data(), dy.data(), w.data(), 1e-5f, n, one.data());
    for (size_t i = 0; i < right.size(); ++i)
        right[i] = factor * double(dy[i]) * double(w[i]) - double(x[i]) * along / double(n) * factor * factor * factor;
    expect_close(table.name, "rms_norm_back", one, right, 1e-5);
    table.training->gated_back(x.data(), w.data(), dy.data(), false, n, one.data(), two.data());
    for (size_t i = 0; i < right.size(); ++i) {
        const double g = double(x[i]), s = 1.0 / (1.0 + std::exp(-g));
        right[i] = double(dy[i]) * double(w[i]) * s * (1.0 + g * (1.0 - s)), other[i] = double(dy[i]) * g * s;
    }
    expect_close(table.name, "silu_back of the gate", one, right, 1e-5);
    expect_close(table.name, "silu_back of the other", two, other, 1e-5);
    expect_close(table.name, "sum of squares", {float(table.training->reduce(x.data(), ReduceKind::sum_squares, n))},
                 {squares}, 1e-6);
}

}  // namespace

int main(int n_argument, char** arguments) {
    if (n_argument == 1) {
        for (const Compiled& each : compiled()) std::printf("%s\n", each.name);
        return 0;
    }
    const int types[] = {F32,  F16,  BF16,   Q4_0,   Q4_1,  Q5_0,  Q5_1,  Q8_0,    Q2_K,    Q3_K, Q4_K,
                         Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4, TQ2_0, IQ1_S, IQ2_XXS, IQ3_XXS, IQ3_S};
    for (int i = 1; i < n_argument; ++i) {
        const auto named = [&](const Compiled& each) { return std::strcmp(each.name, arguments[i]) == 0; };
        const auto found = std::find_if(compiled().begin(), compiled().end(), named);
        if (found == compiled().end()) {
            std::printf("there are no kernels for %s\n", arguments[i]);
            return 2;
        }
        const KernelTable& table = *found->table();
        for (int type : types) check_linear(table, type);
        for (int type : types) check_weight_products(table, type);
        check_products(table);
        for (KVType type : {KVType::f32, KVType::f16, KVType::bf16, KVType::q8_0})
            for (int rows : {1, 3, 20}) {
                check_attention(table, {type, rows, 4, 2, 64, 300, 0});
                check_attention(table, {type, rows, 3, 3, 32, 7, 10});
            }
        check_rows(table);
        check_attention_rows(table, {150, 4, 2, 40, 0});
        check_attention_rows(table, {20, 3, 1, 16, 5});
        check_gradients(table);
    }
    std::printf("%d of %d checks failed\n", n_wrong, n_check);
    return n_wrong == 0 ? 0 : 1;
}
