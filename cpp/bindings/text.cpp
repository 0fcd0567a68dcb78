// llamakit._text: tokenizers.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <mutex>

#include "text/encoder.h"
#include "text/specials.h"

namespace py = pybind11;
using namespace lk::text;

namespace {

using Spans = py::array_t<uint64_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

// Starts and sizes of texts in a buffer; the callee checks them against it.
std::span<const Span> spans_of(const Spans& spans) {
    if (spans.ndim() != 2 || spans.shape(1) != 2) throw std::invalid_argument("spans must be (n, 2)");
    static_assert(sizeof(Span) == 2 * sizeof(uint64_t));
    return {reinterpret_cast<const Span*>(spans.data()), size_t(spans.shape(0))};
}

std::string_view view_of(const py::buffer_info& buffer) {
    return {static_cast<const char*>(buffer.ptr), size_t(buffer.size * buffer.itemsize)};
}

class Tokenizer {
  public:
    Tokenizer(const py::buffer& buffer, const Spans& spans) : vocabulary_(view_of(buffer.request()), spans_of(spans)) {}

    void use_bpe(const py::buffer& buffer, const Spans& spans, const std::string& pre) {
        const PreType* type = find_pre_type(pre);
        if (type == nullptr) throw std::invalid_argument("unknown pre-tokenizer " + pre);
        type_ = *type;
        const py::buffer_info info = buffer.request();
        encoder_ = std::make_unique<BpeEncoder>(vocabulary_, view_of(info), spans_of(spans), *type);
    }

    void use_spm(const Floats& scores, bool space_prefix, int32_t unknown) {
        if (scores.size() != size()) throw std::invalid_argument("as many scores as tokens are needed");
        std::vector<float> list(scores.data(), scores.data() + scores.size());
        encoder_ = std::make_unique<SpmEncoder>(vocabulary_, std::move(list), space_prefix, unknown);
    }

    void set_specials(const std::vector<std::tuple<int32_t, bool, bool, bool>>& specials) {
        std::vector<SpecialTokens::Special> list;
        for (const auto& [id, always, left, right] : specials)
            list.push_back({std::string(vocabulary_.text(id)), id, always, left, right});
        specials_.build(std::move(list));
    }

    py::array_t<int32_t> encode(const py::bytes& text, bool parse_special) {
        const std::string_view view = text;
        Ids out;
        {
            py::gil_scoped_release release;
            const std::lock_guard lock(mutex_);  // the encoder has buffers of its own
            bool first = true;
            for (const Fragment& fragment : specials_.partition(view, parse_special)) {
                if (fragment.token >= 0)
                    out.push_back(fragment.token);
                else
                    encoder_->encode(fragment.text, first, out);
                first = fragment.token >= 0;
            }
        }
        return py::array_t<int32_t>(py::ssize_t(out.size()), out.data());
    }

    py::bytes text(int32_t id) const { return std::string(vocabulary_.text(id)); }
    int32_t find(const py::bytes& text) const {
        const int32_t id = vocabulary_.find(std::string_view(text));
        return id < size() ? id : -1;  // beyond are texts that only occur in merges
    }
    int32_t size() const { return vocabulary_.n_tokens(); }
    const PreType& type() const { return type_; }

  private:
    Vocabulary vocabulary_;
    SpecialTokens specials_;
    std::unique_ptr<Encoder> encoder_;
    std::mutex mutex_;
    PreType type_{.name = "", .family = ""};
};

py::bytes bytes_of_token(const py::bytes& token) {
    const std::string_view text = token;
    std::string out;
    for (size_t i = 0; i < text.size();) {
        const Decoded c = decode_utf8(text.substr(i));
        const int byte = byte_of_character(c.code_point);
        if (byte >= 0)
            out += char(byte);
        else
            out.append(text.substr(i, c.length));
        i += c.length;
    }
    return out;
}

}  // namespace

PYBIND11_MODULE(_text, m) {
    m.doc() = "Tokenizers.";
    py::class_<Tokenizer>(m, "Tokenizer")
        .def(py::init<const py::buffer&, const Spans&>(), py::arg("buffer"), py::arg("spans"))
        .def("use_bpe", &Tokenizer::use_bpe, py::arg("buffer"), py::arg("spans"), py::arg("pre"))
        .def("use_spm", &Tokenizer::use_spm, py::arg("scores"), py::arg("space_prefix"), py::arg("unknown"))
        .def("set_specials", &Tokenizer::set_specials, "(id, always, strip left, strip right) of each special token.")
        .def("encode", &Tokenizer::encode, py::arg("text"), py::arg("parse_special"))
        .def("text", &Tokenizer::text)
        .def("find", &Tokenizer::find)
        .def("__len__", &Tokenizer::size)
        .def_property_readonly("byte_level", [](const Tokenizer& t) { return !t.type().raw; })
        .def_property_readonly("escape_spaces", [](const Tokenizer& t) { return t.type().escape_spaces; })
        .def_property_readonly("add_bos", [](const Tokenizer& t) { return t.type().add_bos; })
        .def_property_readonly("no_bos", [](const Tokenizer& t) { return t.type().no_bos; });
    m.def("pretokenizer_names", [] {
        std::vector<std::string> names;
        for (const PreType& type : pre_types()) names.push_back(type.name);
        return names;
    });
    m.def("bytes_of_token", &bytes_of_token, "The bytes of a token's text in GPT-2's alphabet; other characters stay.");
}
