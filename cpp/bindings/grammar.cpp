// The part of llamakit._sampling that is about grammars: building them, vocabularies, matchers, the sampler stage.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "grammar/stage.h"

namespace py = pybind11;
using namespace lk::grammar;

namespace {

using Release = py::call_guard<py::gil_scoped_release>;

py::array_t<uint32_t> bits_of(const std::shared_ptr<const Mask>& mask) {
    auto* kept = new std::shared_ptr<const Mask>(mask);  // the array is a view that keeps its mask
    const py::capsule owner(kept, [](void* p) { delete static_cast<std::shared_ptr<const Mask>*>(p); });
    py::array_t<uint32_t> array(py::ssize_t(mask->bits.size()), mask->bits.data(), owner);
    array.attr("setflags")(py::arg("write") = false);
    return array;
}

void bind_builder(py::module_& m) {
    py::class_<Network>(m, "GrammarNetwork").def_property_readonly("n_state", [](const Network& n) {
        return n.states.size();
    });
    py::class_<NetworkBuilder>(m, "GrammarBuilder", "Builds a grammar's network, children before their parents.")
        .def(py::init<int32_t>(), py::arg("n_rule"))
        .def("text", [](NetworkBuilder& b, const py::bytes& bytes) { return b.text(std::string(bytes)); })
        .def("chars", &NetworkBuilder::chars, py::arg("ranges"))
        .def("tokens", &NetworkBuilder::tokens, py::arg("ids"), py::arg("negated"))
        .def("ref", &NetworkBuilder::ref, py::arg("rule"))
        .def("seq", &NetworkBuilder::seq, py::arg("items"))
        .def("alt", &NetworkBuilder::alt, py::arg("items"))
        .def("repeat", &NetworkBuilder::repeat, py::arg("item"), py::arg("least"), py::arg("most"))
        .def("automaton", &NetworkBuilder::automaton, py::arg("edges"), py::arg("accepting"))
        .def("rule", &NetworkBuilder::rule, py::arg("number"), py::arg("body"))
        .def("finish", &NetworkBuilder::finish, py::arg("root"), Release());
}

void bind_matcher(py::module_& m) {
    py::class_<Trie, std::shared_ptr<Trie>>(m, "TokenTrie", "The tokens of a vocabulary as a tree of bytes.")
        .def(py::init([](const std::vector<py::bytes>& pieces, const std::vector<int32_t>& excluded,
                         const std::vector<int32_t>& ends) {
                 std::vector<std::string> texts;
                 texts.reserve(pieces.size());
                 for (const py::bytes& piece : pieces) texts.emplace_back(piece);
                 const py::gil_scoped_release release;
                 return std::make_shared<Trie>(std::move(texts), excluded, ends);
             }),
             py::arg("pieces"), py::arg("excluded"), py::arg("ends"))
        .def_property_readonly("n_node", [](const Trie& t) { return t.nodes.size(); })
        .def_property_readonly("n_vocab", &Trie::n_vocab);
    py::class_<Program, std::shared_ptr<Program>>(m, "GrammarProgram", "A grammar for a vocabulary.")
        .def(py::init([](const Network& network, const std::shared_ptr<Trie>& trie) {
                 return std::make_shared<Program>(network, trie);
             }),
             py::arg("network"), py::arg("trie"), Release())
        .def("warm", &Program::warm, py::arg("n_mask"), Release())
        .def_property_readonly("n_config", &Program::n_config)
        .def_property_readonly("n_byte", &Program::n_byte);
    py::class_<Matcher>(m, "GrammarMatcher", "The place of one text in a grammar.")
        .def(py::init<std::shared_ptr<Program>>(), py::arg("program"))
        .def("mask",
             [](Matcher& matcher) {
                 std::shared_ptr<const Mask> mask;
                 {
                     const py::gil_scoped_release release;
                     mask = matcher.mask();
                 }
                 return bits_of(mask);
             })
        .def(
            "compute", [](Matcher& matcher) { return matcher.mask()->count; }, Release(),
            "Make the mask; returns how many tokens it allows.")
        .def("accept", &Matcher::accept, py::arg("token"), Release())
        .def("accept_bytes", [](Matcher& a, const py::bytes& b) { return a.accept_bytes(std::string(b)); })
        .def("can_end", &Matcher::can_end, Release())
        .def("rewind", &Matcher::rewind, py::arg("n_token"), Release())
        .def("forced", &Matcher::forced, py::arg("most"), Release())
        .def("forced_bytes", [](Matcher& a, size_t most) { return py::bytes(a.forced_bytes(most)); })
        .def("clone", [](const Matcher& a) { return Matcher(a); })
        .def_property_readonly("n_token", &Matcher::n_token)
        .def_property_readonly("ended", &Matcher::ended);
    py::class_<GrammarStage, lk::sampling::Stage, std::shared_ptr<GrammarStage>>(m, "GrammarStage")
        .def(py::init<std::shared_ptr<Program>>(), py::arg("program"))
        .def("start", &GrammarStage::start)
        .def("forced", &GrammarStage::forced, py::arg("most"), Release());
}

}  // namespace

void bind_grammar(py::module_& m) {
    py::register_exception<GrammarError>(m, "GrammarLimitError", PyExc_ValueError);
    bind_builder(m);
    bind_matcher(m);
}
