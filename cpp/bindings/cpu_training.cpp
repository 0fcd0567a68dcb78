// llamakit.plugins.backends.cpu._cpu.training: the kernels of training without a program, for checks and benchmarks.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "cpu/attention_rows.h"
#include "cpu/dispatch.h"
#include "cpu/gemm.h"
#include "cpu/map.h"

namespace py = pybind11;
using namespace lk::cpu;

namespace {

using Array = py::array_t<float, py::array::c_style>;

int64_t size(const py::array& x, int axis) {
    if (x.ndim() != 2) throw std::invalid_argument("a matrix is wanted");
    return x.shape(axis);
}

void require(bool right, const char* what) {
    if (!right) throw std::invalid_argument(what);
}

// out (+)= op(a) op(b), or op(a) W^T, or with `back` op(a) W.
void product(const std::string& isa, Pool& pool, Workspace& memory, const Array& a, const py::object& b, Array out,
             bool transpose_a, bool transpose_b, bool add, bool pairs, const std::optional<Array>& bias) {
    Product p{};
    p.a = rows_of(a.data(), size(a, 1));
    p.m = size(a, 0), p.k = size(a, 1);
    if (transpose_a) p.a = transposed(p.a), std::swap(p.m, p.k);
    int64_t k = 0;
    if (py::isinstance<Weight>(b)) {
        p.b.weight = &py::cast<const Weight&>(b).view, p.b.back = !transpose_b;
        k = p.b.back ? p.b.weight->n_out : p.b.weight->n_in, p.n = p.b.back ? p.b.weight->n_in : p.b.weight->n_out;
    } else {
        const Array values = py::cast<Array>(b);
        p.b.values = rows_of(values.data(), size(values, 1));
        k = size(values, 0), p.n = size(values, 1);
        if (transpose_b) p.b.values = transposed(p.b.values), std::swap(k, p.n);
    }
    require(k == p.k && size(out, 0) == p.m && size(out, 1) == p.n, "these shapes make no product");
    require(!bias || bias->size() == p.n, "a bias has one value for each column");
    p.c = out.mutable_data(), p.c_row = p.n, p.add = add, p.pairs = pairs;
    p.bias = bias ? bias->data() : nullptr;
    py::gil_scoped_release release;
    multiply(kernels(isa), pool, memory, p);
}

using Ints = py::array_t<int32_t, py::array::c_style>;

// q, k, v are (rows, heads, dim).
RowsAttention attention_of(const Array& q, const Array& k, const Array& v, const Ints& sequences, float scale,
                           int64_t window) {
    require(q.ndim() == 3 && k.ndim() == 3 && v.ndim() == 3, "queries, keys and values are (rows, heads, dim)");
    const bool same = k.shape(0) == q.shape(0) && v.shape(0) == q.shape(0) && sequences.size() == q.shape(0);
    require(same && k.shape(1) == v.shape(1) && k.shape(2) == q.shape(2), "these shapes do not go together");
    require(q.shape(1) % k.shape(1) == 0, "every KV head serves as many heads");
    return {q.shape(0), q.shape(1),       k.shape(1), k.shape(2), v.shape(2), window,
            scale,      sequences.data(), q.data(),   k.data(),   v.data()};
}

void attend(const std::string& isa, Pool& pool, Workspace& memory, const Array& q, const Array& k, const Array& v,
            const Ints& sequences, float scale, int64_t window, Array out, Array log_sum_exp) {
    const RowsAttention a = attention_of(q, k, v, sequences, scale, window);
    require(out.size() == a.n_row * a.n_head * a.dim_v && log_sum_exp.size() == a.n_row * a.n_head,
            "these results have other shapes");
    float *y = out.mutable_data(), *lse = log_sum_exp.mutable_data();
    py::gil_scoped_release release;
    attend_rows(kernels(isa), pool, memory, a, y, lse);
}

void attend_back(const std::string& isa, Pool& pool, Workspace& memory, const Array& q, const Array& k, const Array& v,
                 const Ints& sequences, float scale, int64_t window, const Array& out, const Array& log_sum_exp,
                 const Array& dout, Array dq, Array dk, Array dv) {
    const RowsAttention a = attention_of(q, k, v, sequences, scale, window);
    require(out.size() == a.n_row * a.n_head * a.dim_v && log_sum_exp.size() == a.n_row * a.n_head &&
                dout.size() == out.size() && dq.size() == q.size() && dk.size() == k.size() && dv.size() == v.size(),
            "these results have other shapes");
    float *to_q = dq.mutable_data(), *to_k = dk.mutable_data(), *to_v = dv.mutable_data();
    const float *y = out.data(), *lse = log_sum_exp.data(), *dy = dout.data();
    py::gil_scoped_release release;
    attend_rows_back(kernels(isa), pool, memory, a, y, lse, dy, to_q, to_k, to_v);
}

void run_map(const std::string& isa, Pool& pool, Workspace& memory, const Map& map,
             const std::vector<std::shared_ptr<State>>& states) {
    std::vector<State*> all;
    for (const auto& state : states) all.push_back(state.get());
    py::gil_scoped_release release;
    map.run(kernels(isa), pool, memory, all, nullptr);
}

}  // namespace

void bind_training(py::module_& m);
void bind_training(py::module_& m) {
    py::class_<Workspace>(m, "Workspace").def(py::init<int>());
    m.def("product", &product, py::arg("isa"), py::arg("pool"), py::arg("memory"), py::arg("a"), py::arg("b"),
          py::arg("out").noconvert(), py::kw_only(), py::arg("transpose_a") = false, py::arg("transpose_b") = false,
          py::arg("add") = false, py::arg("pairs") = false, py::arg("bias") = py::none());
    m.def("run_map", &run_map, "A map without scalars.");
    m.def("attend", &attend, py::arg("isa"), py::arg("pool"), py::arg("memory"), py::arg("q"), py::arg("k"),
          py::arg("v"), py::arg("sequences"), py::arg("scale"), py::arg("window"), py::arg("out").noconvert(),
          py::arg("log_sum_exp").noconvert());
    m.def("attend_back", &attend_back, py::arg("isa"), py::arg("pool"), py::arg("memory"), py::arg("q"), py::arg("k"),
          py::arg("v"), py::arg("sequences"), py::arg("scale"), py::arg("window"), py::arg("out"),
          py::arg("log_sum_exp"), py::arg("dout"), py::arg("dq").noconvert(), py::arg("dk").noconvert(),
          py::arg("dv").noconvert());
}
