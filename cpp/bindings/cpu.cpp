// llamakit.plugins.backends.cpu._cpu: weights, KV cache, adapters and programs of the CPU backend.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "cpu/ceilings.h"
#include "cpu/dispatch.h"
#include "cpu/program.h"
#include "cpu/workspace.h"

namespace py = pybind11;
using namespace lk::cpu;

void bind_training(py::module_& m);  // cpu_training.cpp

namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

KVType kv_type(const std::string& name) {
    if (name == "f32") return KVType::f32;
    if (name == "f16") return KVType::f16;
    if (name == "bf16") return KVType::bf16;
    if (name == "q8_0") return KVType::q8_0;
    throw std::invalid_argument("KV type " + name + " is not known; there are: f32 f16 bf16 q8_0");
}

using Shapes = std::vector<std::tuple<int64_t, int64_t, int64_t>>;  // heads, sizes of keys and of values, by layer

std::vector<KVShape> kv_shapes(const Shapes& shapes) {
    std::vector<KVShape> made;
    for (const auto& [n_head, dim_k, dim_v] : shapes) made.push_back({n_head, dim_k, dim_v});
    return made;
}

void append(Weight& weight, const Bytes& bytes, Pool& pool) {
    const uint8_t* data = bytes.data();
    const size_t n = size_t(bytes.nbytes());
    py::gil_scoped_release release;
    weight.append(data, n, pool);
}

// The bytes of an array that the weight keeps.
std::shared_ptr<Weight> in_place(int type, int64_t n_out, int64_t n_in, const Bytes& bytes) {
    const auto let_go = [](void* held) {
        py::gil_scoped_acquire acquire;
        delete static_cast<py::object*>(held);
    };
    std::shared_ptr<void> owner(static_cast<void*>(new py::object(bytes)), let_go);
    return std::make_shared<Weight>(type, n_out, n_in, bytes.data(), size_t(bytes.nbytes()), std::move(owner));
}

StateType state_type(const std::string& name) {
    if (name == "f32") return StateType::f32;
    if (name == "bf16") return StateType::bf16;
    if (name == "i8") return StateType::i8;
    throw std::invalid_argument("states of type " + name + " are not known; there are: f32 bf16 i8");
}

Floats read_state(const State& state) {
    Floats values(state.size());
    state.read(values.mutable_data());
    return values;
}

void write_state(State& state, const Floats& values) {
    if (values.size() != state.size()) throw std::invalid_argument("a state has another size than what is written");
    state.write(values.data());
}

// A state where a weight is read.
std::shared_ptr<Weight> weight_of_state(std::shared_ptr<State> state, int64_t n_out, int64_t n_in, bool is_vector) {
    if (state->type() != StateType::f32 || state->size() != n_out * n_in)
        throw std::invalid_argument("a state stands for a weight of another type or size");
    float* values = state->floats();
    return std::make_shared<Weight>(values, n_out, n_in, is_vector, std::move(state));
}

void check_cells(const KVCache& kv, const std::vector<int64_t>& cells, int64_t end) {
    for (int64_t cell : cells)
        if (cell < 0 || cell >= end)
            throw std::invalid_argument("cell or block " + std::to_string(cell) + " is outside 0.." +
                                        std::to_string(end - 1));
}

void copy_blocks(KVCache& kv, const std::vector<int64_t>& source, const std::vector<int64_t>& destination) {
    check_cells(kv, source, kv.n_block);
    check_cells(kv, destination, kv.n_block);
    if (source.size() != destination.size()) throw std::invalid_argument("as many destinations as sources are needed");
    for (size_t i = 0; i < source.size(); ++i) kv.copy_block(source[i], destination[i]);
}

void shift(KVCache& kv, const std::string& isa, const std::vector<int64_t>& source,
           const std::vector<int64_t>& destination, const std::vector<std::shared_ptr<Rope>>& ropes, double delta) {
    check_cells(kv, source, kv.n_cell());
    check_cells(kv, destination, kv.n_cell());
    if (source.size() != destination.size()) throw std::invalid_argument("as many destinations as sources are needed");
    if (int64_t(ropes.size()) != kv.n_layer()) throw std::invalid_argument("as many ropes as layers are needed");
    kv.shift(kernels(isa), source, destination, ropes, delta);
}

Bytes export_cells(const KVCache& kv, const std::vector<int64_t>& cells) {
    check_cells(kv, cells, kv.n_cell());
    Bytes out({kv.n_layer(), int64_t(cells.size()), kv.canonical_bytes()});
    uint8_t* at = out.mutable_data();
    const py::ssize_t n_bytes = out.nbytes();
    {
        py::gil_scoped_release release;        // a context may be gigabytes
        std::fill_n(at, n_bytes, uint8_t(0));  // layers with less leave the end of their rows
        for (int64_t layer = 0; layer < kv.n_layer(); ++layer)
            for (int64_t cell : cells) kv.export_cell(layer, cell, at), at += kv.canonical_bytes();
    }
    return out;
}

void restore_cells(KVCache& kv, const std::vector<int64_t>& cells, const Bytes& data) {
    check_cells(kv, cells, kv.n_cell());
    const std::vector<int64_t> wanted{kv.n_layer(), int64_t(cells.size()), kv.canonical_bytes()};
    for (size_t i = 0; i < 3; ++i)
        if (data.ndim() != 3 || data.shape(py::ssize_t(i)) != wanted[i])
            throw std::invalid_argument("KV data has another shape than this cache");
    const uint8_t* at = data.data();
    py::gil_scoped_release release;
    for (int64_t layer = 0; layer < kv.n_layer(); ++layer)
        for (int64_t cell : cells) kv.restore_cell(layer, cell, at), at += kv.canonical_bytes();
}

void set_adapters(
    AdapterTable& table, int32_t slot,
    const std::map<std::string, std::tuple<std::shared_ptr<Weight>, std::shared_ptr<Weight>, float>>& adapters) {
    std::map<std::string, AdapterSource> sources;
    for (const auto& [name, parts] : adapters) {
        const auto& [a, b, scale] = parts;
        sources.emplace(name, AdapterSource{a, b, scale});
    }
    table.set(slot, sources);
}

// Keeps the packed input block alive with the program that reads it.
struct PyProgram {
    py::array_t<int32_t> inputs;
    Program program;
};

std::unique_ptr<PyProgram> make_program(std::shared_ptr<Pool> pool, const std::string& isa, std::vector<Step> steps,
                                        int64_t arena_floats, py::array_t<int32_t> inputs, std::shared_ptr<KVCache> kv,
                                        std::shared_ptr<AdapterTable> adapters, std::vector<int64_t> max_dims,
                                        int64_t max_seqs, int64_t blocks_per_seq) {
    const int32_t* data = inputs.data();
    return std::unique_ptr<PyProgram>(new PyProgram{
        std::move(inputs), Program(std::move(pool), kernels(isa), std::move(steps), arena_floats, data, std::move(kv),
                                   std::move(adapters), std::move(max_dims), max_seqs, blocks_per_seq)});
}

py::array output(const py::object& self, const Value& value, const std::vector<int64_t>& shape) {
    const auto& program = py::cast<const PyProgram&>(self).program;
    py::array_t<float> view(shape, program.data(value), self);
    py::detail::array_proxy(view.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    return view;
}

MapNode map_node(const std::string& op, int a, int b, double value) {
    static const std::map<std::string, MapOp> operations = {
        {"add", MapOp::add},          {"sub", MapOp::subtract}, {"mul", MapOp::multiply},
        {"div", MapOp::divide},       {"min", MapOp::minimum},  {"max", MapOp::maximum},
        {"sqrt", MapOp::square_root}, {"abs", MapOp::absolute}, {"sign", MapOp::sign}};
    const auto found = operations.find(op);
    if (found != operations.end()) return {MapNode::Leaf::none, found->second, a, b < 0 ? a : b, 0.0};
    if (op == "constant") return {MapNode::Leaf::constant, MapOp::copy, 0, 0, value};
    if (op == "scalar") return {MapNode::Leaf::scalar, MapOp::copy, 0, 0, value};
    if (op == "state") return {MapNode::Leaf::state, MapOp::copy, 0, 0, value};
    throw std::invalid_argument("a map cannot compute " + op);
}

// Instructions (op, a, b, value) and assignments (state, instruction).
std::shared_ptr<Map> make_map(int n_state, const std::vector<std::tuple<std::string, int, int, double>>& instructions,
                              const std::vector<std::pair<int, int>>& assignments) {
    std::vector<MapNode> nodes;
    for (const auto& [op, a, b, value] : instructions) nodes.push_back(map_node(op, a, b, value));
    std::vector<MapAssignment> assigned;
    for (const auto& [state, node] : assignments) assigned.push_back({state, node});
    return std::make_shared<Map>(n_state, nodes, assigned);
}

ActForm operand(const std::string& name) {
    if (name == "int8") return ActForm::int8_32;
    if (name == "bf16") return ActForm::bf16;
    if (name == "f32") return ActForm::f32;
    throw std::invalid_argument("operands of type " + name + " are not known; there are: int8 bf16 f32");
}

const char* activations(int type) {
    switch (act_form(type)) {
        case ActForm::f32:
            return "f32";
        case ActForm::bf16:
            return "bf16";
        case ActForm::int8_32:
            return "int8_32";
        case ActForm::int8_256:
            return "int8_256";
    }
    throw std::logic_error("a form of activations without a name");
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "The CPU backend.";
    m.def("supported_isas", &supported_isas);
    py::class_<Pool, std::shared_ptr<Pool>>(m, "Pool").def(py::init<int, std::vector<int>>(), py::arg("n_thread"),
                                                           py::arg("cores") = std::vector<int>());
    py::class_<Weight, std::shared_ptr<Weight>>(m, "Weight")
        .def(py::init<int, int64_t, int64_t, bool>(), py::arg("type"), py::arg("n_out"), py::arg("n_in"),
             py::arg("is_vector"))
        .def_static("in_place", &in_place, py::arg("type"), py::arg("n_out"), py::arg("n_in"), py::arg("bytes"))
        .def_static("planned", &planned_weight, py::arg("type"), py::arg("n_out"), py::arg("n_in"),
                    py::arg("is_vector"), py::arg("packed"))
        .def("append", &append)
        .def("finish", &Weight::finish, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("n_bytes", &Weight::n_bytes)
        .def_static("packed_bytes", &Weight::packed_bytes);
    m.def("activations", &activations, py::arg("type"),
          "The form of activations that weights of a type are multiplied by.");
    const auto released = py::call_guard<py::gil_scoped_release>();
    m.def(
        "read_bandwidth", [](const std::string& isa, Pool& pool) { return read_bandwidth(kernels(isa), pool); },
        released);
    m.def(
        "multiply_rate",
        [](const std::string& isa, Pool& pool, const std::string& type) {
            return multiply_rate(kernels(isa), pool, operand(type));
        },
        released);
    m.def(
        "linear_seconds",
        [](const std::string& isa, const Weight& weight, int64_t n_row, int64_t passes) {
            return linear_seconds(kernels(isa), weight, n_row, passes);
        },
        released);
    py::class_<Rope, std::shared_ptr<Rope>>(m, "Rope").def(
        py::init([](std::vector<double> inv_freq, bool adjacent, double magnitude, bool inverse) {
            return Rope{std::move(inv_freq), adjacent, magnitude, inverse};
        }),
        py::arg("inv_freq"), py::arg("adjacent"), py::arg("magnitude"), py::arg("inverse") = false);
    py::class_<KVCache, std::shared_ptr<KVCache>>(m, "KVCache")
        .def(py::init([](const std::string& type, const Shapes& shapes, int64_t n_block, int64_t block_size) {
            return std::make_shared<KVCache>(kv_type(type), kv_shapes(shapes), n_block, block_size);
        }))
        .def_static("bytes", [](const std::string& type, const Shapes& shapes,
                                int64_t n_cell) { return KVCache::bytes(kv_type(type), kv_shapes(shapes), n_cell); })
        .def("copy", &copy_blocks)
        .def("shift", &shift)
        .def("export", &export_cells)
        .def("restore", &restore_cells);
    py::class_<AdapterTable, std::shared_ptr<AdapterTable>>(m, "AdapterTable")
        .def(py::init<int32_t>())
        .def("set", &set_adapters);
    py::class_<State, std::shared_ptr<State>>(m, "State")
        .def(py::init([](const std::string& type, int64_t n, bool planned) {
                 return std::make_shared<State>(state_type(type), n, planned);
             }),
             py::arg("type"), py::arg("n"), py::arg("planned") = false)
        .def_static("n_bytes", [](const std::string& type, int64_t n) { return State::n_bytes(state_type(type), n); })
        .def("read", &read_state)
        .def("write", &write_state)
        .def("weight", &weight_of_state, py::arg("n_out"), py::arg("n_in"), py::arg("is_vector"));
    py::class_<Value>(m, "Value")
        .def(py::init([](int64_t offset, int dim, int64_t n_fixed, int64_t width, int64_t n_head, bool input,
                         std::shared_ptr<State> state) {
                 return Value{offset, input, std::move(state), dim, n_fixed, width, n_head};
             }),
             py::arg("offset"), py::arg("dim"), py::arg("n_fixed"), py::arg("width"), py::arg("n_head"),
             py::arg("input") = false, py::arg("state") = nullptr);
    py::class_<LinearPart>(m, "LinearPart")
        .def(py::init([](std::shared_ptr<Weight> weight, std::shared_ptr<Weight> bias, std::string target, Value out) {
            return LinearPart{std::move(weight), std::move(bias), std::move(target), out};
        }));
    py::enum_<StepKind>(m, "StepKind")
        .value("linears", StepKind::linears)
        .value("embedding", StepKind::embedding)
        .value("rms_norm", StepKind::rms_norm)
        .value("layer_norm", StepKind::layer_norm)
        .value("rope", StepKind::rope)
        .value("attention", StepKind::attention)
        .value("experts", StepKind::experts)
        .value("add", StepKind::add)
        .value("mul", StepKind::mul)
        .value("scale", StepKind::scale)
        .value("gated", StepKind::gated)
        .value("activation", StepKind::activation)
        .value("soft_cap", StepKind::soft_cap)
        .value("select_rows", StepKind::select_rows)
        .value("matmul", StepKind::matmul)
        .value("cross_entropy", StepKind::cross_entropy)
        .value("cross_entropy_grad", StepKind::cross_entropy_grad)
        .value("write_state", StepKind::write_state)
        .value("add_state", StepKind::add_state)
        .value("linear_back", StepKind::linear_back)
        .value("rms_norm_back", StepKind::rms_norm_back)
        .value("layer_norm_back", StepKind::layer_norm_back)
        .value("attention_back", StepKind::attention_back)
        .value("gated_back", StepKind::gated_back)
        .value("scatter_rows", StepKind::scatter_rows)
        .value("sum_rows", StepKind::sum_rows)
        .value("experts_back", StepKind::experts_back)
        .value("head_loss", StepKind::head_loss)
        .value("map", StepKind::map)
        .value("reduce", StepKind::reduce);
    py::enum_<Activation>(m, "Activation")
        .value("silu", Activation::silu)
        .value("gelu", Activation::gelu)
        .value("gelu_erf", Activation::gelu_erf)
        .value("relu", Activation::relu)
        .value("relu_squared", Activation::relu_squared)
        .value("soft_cap", Activation::soft_cap);
    py::enum_<ReduceKind>(m, "ReduceKind")
        .value("sum", ReduceKind::sum)
        .value("sum_squares", ReduceKind::sum_squares)
        .value("max_abs", ReduceKind::max_abs);
    py::class_<Map, std::shared_ptr<Map>>(m, "Map").def(py::init(&make_map));
    py::class_<Step, std::shared_ptr<Step>>(m, "Step")
        .def(py::init<StepKind, std::string>())
        .def_readwrite("outs", &Step::outs)
        .def_readwrite("inputs", &Step::in)
        .def_readwrite("ints", &Step::ints)
        .def_readwrite("weight", &Step::weight)
        .def_readwrite("other", &Step::other)
        .def_readwrite("target", &Step::target)
        .def_readwrite("states", &Step::states)
        .def_readwrite("epsilon", &Step::epsilon)
        .def_readwrite("factor", &Step::factor)
        .def_readwrite("cap", &Step::cap)
        .def_readwrite("slopes", &Step::slopes)
        .def_readwrite("activation", &Step::activation)
        .def_readwrite("slope", &Step::slope)
        .def_readwrite("layer", &Step::layer)
        .def_readwrite("window", &Step::window)
        .def_readwrite("n_used", &Step::n_used)
        .def_readwrite("chunk", &Step::chunk)
        .def_readwrite("reduction", &Step::reduction)
        .def_readwrite("map", &Step::map)
        .def_readwrite("plain", &Step::plain)
        .def_readwrite("normalise", &Step::normalise)
        .def_readwrite("transpose_a", &Step::transpose_a)
        .def_readwrite("transpose_b", &Step::transpose_b)
        .def_readwrite("rope", &Step::rope)
        .def_readwrite("table", &Step::table)
        .def_readwrite("parts", &Step::parts)
        .def_readwrite("norm", &Step::norm)
        .def_readwrite("gated", &Step::gated)
        .def_readwrite("gelu", &Step::gelu);
    py::class_<PyProgram>(m, "Program")
        .def(py::init(&make_program))
        .def("use_pairs", [](PyProgram& self, bool wanted) { self.program.use_pairs(wanted); })
        .def("use_threads", [](PyProgram& self, int few, int many) { self.program.use_threads(few, many); })
        .def("run", [](PyProgram& self, std::vector<int64_t> dims, int64_t longest) {
            py::gil_scoped_release release;
            self.program.run({std::move(dims), longest});
        });
    m.def(
        "workspace_bytes",
        [](const std::string& isa, const std::vector<Step>& steps, const std::vector<int64_t>& max_dims,
           int64_t max_positions,
           int64_t n_thread) { return workspace_bytes(kernels(isa), steps, max_dims, max_positions, n_thread); },
        "Bytes that a program takes beside its arena.");
    m.def("output", &output, "A read-only view of a value, kept alive by the program.");
    py::module_ training = m.def_submodule("training", "Kernels of training, alone.");
    bind_training(training);
}
