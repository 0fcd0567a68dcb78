// llamakit._formats: GGUF heads, and tensor formats row by row.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "formats/gguf.h"
#include "formats/mapped.h"
#include "formats/quants.h"

namespace py = pybind11;
using namespace lk::formats;

namespace {

py::bytes to_bytes(std::string_view text) {
    return py::bytes(text.data(), text.size());
}

// (key, type, element type, count, offset, starts or None)
py::tuple to_python(const MetadataRecord& r) {
    py::object starts = py::none();
    if (r.type == ARRAY && r.element_type == STRING)
        starts = py::array_t<uint32_t>(py::ssize_t(r.starts.size()), r.starts.data());
    return py::make_tuple(to_bytes(r.key), r.type, r.element_type, r.count, r.offset, starts);
}

// (name, type, sizes in the order of the file, offset, n_bytes)
py::tuple to_python(const TensorRecord& r) {
    py::tuple dims(r.n_dim);
    for (uint32_t i = 0; i < r.n_dim; ++i) dims[i] = r.dims[i];
    return py::make_tuple(to_bytes(r.name), r.type, dims, r.offset, r.n_bytes);
}

py::dict parse(const py::buffer& buffer) {
    const py::buffer_info info = buffer.request();
    if (info.ndim != 1 || info.itemsize != 1) throw std::invalid_argument("a flat buffer of bytes is needed");
    Header header;
    {
        py::gil_scoped_release release;
        header = parse_gguf(static_cast<const uint8_t*>(info.ptr), size_t(info.size));
    }
    py::list metadata, tensors;
    for (const auto& record : header.metadata) metadata.append(to_python(record));
    for (const auto& record : header.tensors) tensors.append(to_python(record));
    py::dict out;
    out["version"] = header.version;
    out["length_bytes"] = header.length_bytes;
    out["alignment"] = header.alignment;
    out["data_offset"] = header.data_offset;
    out["metadata"] = metadata;
    out["tensors"] = tensors;
    return out;
}

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;

Floats dequantize(int type, const Bytes& raw, int64_t n) {
    if (row_bytes(type, n) != raw.nbytes())
        throw std::invalid_argument(std::to_string(n) + " values need " + std::to_string(row_bytes(type, n)) +
                                    " bytes, there are " + std::to_string(raw.nbytes()));
    Floats out(n);
    float* destination = out.mutable_data();
    const uint8_t* source = raw.data();
    py::gil_scoped_release release;
    dequantize_row(type, source, destination, n);
    return out;
}

Bytes quantize(int type, const Floats& values) {
    const int64_t n = values.size();
    Bytes out(row_bytes(type, n));
    uint8_t* destination = out.mutable_data();
    const float* source = values.data();
    py::gil_scoped_release release;
    quantize_row(type, source, destination, n);
    return out;
}

}  // namespace

PYBIND11_MODULE(_formats, m) {
    m.doc() = "GGUF heads and tensor formats.";
    py::register_exception<ParseError>(m, "ParseError", PyExc_ValueError);
    m.def("parse", &parse, py::arg("buffer"),
          "The head of a GGUF file as a dict of records; ParseError says what is wrong where.");
    m.def("dequantize", &dequantize, py::arg("type"), py::arg("raw"), py::arg("n"), "Decode n values to float32 (n,).");
    m.def("quantize", &quantize, py::arg("type"), py::arg("values"), "Encode float32 values to bytes.");
    m.def(
        "watch",
        [](const py::buffer& map) {
            const py::buffer_info info = map.request();
            return watch(info.ptr, size_t(info.size));
        },
        py::arg("map"), "Survive that a mapped file is cut off: what is gone reads as zeros. Its number, or 0.");
    m.def("forget", &forget, py::arg("number"), "Watch it no longer.");
    m.def("lost_pages", &lost_pages, py::arg("number"), "Pages that were read and are not in the file any more.");
    py::dict types;
    for (const TypeTraits& t : kTypes) types[t.name] = py::make_tuple(t.number, t.block_size, t.type_size);
    m.attr("types") = types;  // name -> (number, values, bytes of a block)
}
