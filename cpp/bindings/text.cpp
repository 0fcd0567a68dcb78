// llamakit._text: tokenization, the JSON of likeliest tokens and what JSON costs; without the GIL where it takes long.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>

#include "text/frames.h"
#include "text/json_cost.h"
#include "text/tokenizer.h"

namespace py = pybind11;
using namespace lk::text;

namespace {

using SpanArray = py::array_t<uint64_t, py::array::c_style | py::array::forcecast>;

std::span<const Span> spans_of(const SpanArray& array) {
    if (array.ndim() != 2 || array.shape(1) != 2) {
        throw std::invalid_argument("spans must have the shape (n, 2)");
    }
    return {reinterpret_cast<const Span*>(array.data()), static_cast<size_t>(array.shape(0))};
}

std::string_view view_of(const py::buffer_info& info) {
    return {static_cast<const char*>(info.ptr), static_cast<size_t>(info.size * info.itemsize)};
}

std::shared_ptr<Vocabulary> make_vocabulary(const py::buffer& buffer, const SpanArray& spans) {
    const py::buffer_info info = buffer.request();
    return std::make_shared<Vocabulary>(view_of(info), spans_of(spans));
}

std::unique_ptr<Tokenizer> make_tokenizer(std::shared_ptr<Vocabulary> vocabulary, const std::vector<uint8_t>& types,
                                          const std::vector<float>& scores, const py::buffer& merges,
                                          const SpanArray& merge_spans, const std::vector<int32_t>& strip_left,
                                          const std::vector<int32_t>& strip_right, bool spm, bool space_prefix,
                                          int32_t unknown, const std::string& pre) {
    const py::buffer_info info = merges.request();
    return std::make_unique<Tokenizer>(std::move(vocabulary), types, scores, view_of(info), spans_of(merge_spans),
                                       strip_left, strip_right,
                                       Tokenizer::Options{spm, space_prefix, false, unknown, pre});
}

py::dict pre_type_table() {
    py::dict table;
    for (const PreType& type : pre_types()) {
        py::dict row;
        row["family"] = type.family;
        row["add_bos"] = type.add_bos;
        row["no_bos"] = type.no_bos;
        row["escape_spaces"] = type.escape_spaces;
        table[type.name] = row;
    }
    return table;
}

// What is done sooner than Python's lock is had again: entries that are written, bytes that are looked at.
constexpr size_t kFew = 64, kShort = 64 << 10;

// Numbers that lie packed in bytes.
template <class T>
std::vector<T> unpacked(const py::bytes& packed) {
    const std::string_view view(packed);
    if (view.size() % sizeof(T) != 0) throw std::invalid_argument("the bytes end within a number");
    std::vector<T> numbers(view.size() / sizeof(T));
    std::memcpy(numbers.data(), view.data(), view.size());
    return numbers;
}

template <class T>
std::vector<T> copy(const py::array_t<T, py::array::c_style | py::array::forcecast>& array) {
    return {array.data(), array.data() + array.size()};
}

}  // namespace

PYBIND11_MODULE(_text, module) {
    py::class_<Vocabulary, std::shared_ptr<Vocabulary>>(module, "Vocabulary")
        .def(py::init(&make_vocabulary), py::arg("buffer"), py::arg("spans"))
        .def_property_readonly("n_tokens", &Vocabulary::n_tokens)
        .def("find",
             [](const Vocabulary& self, const py::bytes& text) {
                 const int32_t id = self.find(std::string_view(text));
                 return id < self.n_tokens() ? id : -1;
             })
        .def("text", [](const Vocabulary& self, int32_t id) {
            if (id < 0 || id >= self.n_tokens()) {
                throw py::index_error("no such token");
            }
            return py::bytes(std::string(self.text(id)));
        });

    using Bytes = py::array_t<uint8_t, py::array::c_style | py::array::forcecast>;
    using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
    py::class_<Tokenizer>(module, "Tokenizer")
        .def(py::init([](std::shared_ptr<Vocabulary> vocabulary, const Bytes& types, const Floats& scores,
                         const py::buffer& merges, const SpanArray& merge_spans, const std::vector<int32_t>& strip_left,
                         const std::vector<int32_t>& strip_right, bool spm, bool space_prefix, int32_t unknown,
                         const std::string& pre) {
                 return make_tokenizer(std::move(vocabulary), copy<uint8_t>(types), copy<float>(scores), merges,
                                       merge_spans, strip_left, strip_right, spm, space_prefix, unknown, pre);
             }),
             py::arg("vocabulary"), py::arg("types"), py::arg("scores"), py::arg("merges"), py::arg("merge_spans"),
             py::arg("strip_left"), py::arg("strip_right"), py::arg("spm"), py::arg("space_prefix"), py::arg("unknown"),
             py::arg("pre"))
        .def(
            "encode",
            [](const Tokenizer& self, const py::bytes& text, bool parse_special) {
                const std::string_view view(text);
                const py::gil_scoped_release release;
                return self.encode(view, parse_special);
            },
            py::arg("text"), py::arg("parse_special"))
        .def("piece", [](const Tokenizer& self, int32_t id) { return py::bytes(self.piece(id)); })
        .def("split", [](const Tokenizer& self, const py::bytes& text) { return self.split(std::string_view(text)); });

    py::class_<Frames>(module, "Frames")
        .def(py::init<int32_t>(), py::arg("n_tokens"))
        .def(
            "missing", [](const Frames& self, const py::bytes& ids) { return self.missing(unpacked<int32_t>(ids)); },
            py::arg("ids"), "Tokens without a frame among packed int32 ids, each once.")
        .def(
            "set",
            [](Frames& self, int32_t id, const py::bytes& before, const py::bytes& after) {
                self.set(id, std::string_view(before), std::string_view(after));
            },
            py::arg("id"), py::arg("before"), py::arg("after"), "What stands around a token's number.")
        .def(
            "write",
            [](const Frames& self, const py::bytes& ids, const py::bytes& numbers) -> py::object {
                const std::vector<int32_t> found = unpacked<int32_t>(ids);
                const std::vector<double> values = unpacked<double>(numbers);
                std::optional<std::string> text;
                if (found.size() < kFew) {
                    text = self.write(found, values);
                } else {
                    const py::gil_scoped_release release;
                    text = self.write(found, values);
                }
                return text ? py::object(py::bytes(*text)) : py::none();
            },
            py::arg("ids"), py::arg("numbers"),
            "Each number in its token's frame, commas between them; None where a frame is not set.");

    module.def("pre_types", &pre_type_table);
    module.def(
        "json_cost",
        [](const py::bytes& text, uint64_t per_large) {
            const std::string_view view(text);
            if (view.size() < kShort) return json_cost(view, per_large);
            const py::gil_scoped_release release;
            return json_cost(view, per_large);
        },
        py::arg("text"), py::arg("per_large"));
}
