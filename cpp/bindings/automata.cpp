// The part of llamakit._sampling that is about automata over code points.
#include "grammar/automata.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;
using namespace lk::grammar;

namespace {

using Edges = std::vector<std::vector<std::tuple<int32_t, int32_t, int32_t>>>;
using Lists = std::pair<Edges, std::vector<bool>>;  // as Python has an automaton
using Limits = std::tuple<size_t, size_t, int64_t>;

// From ("text", str), ("chars", ranges), ("seq" | "alt", items) or ("repeat", item, least, most).
Expression expression_of(const py::tuple& node) {
    Expression made;
    const std::string kind = py::cast<std::string>(node[0]);
    if (kind == "text") {
        for (const char32_t c : py::cast<std::u32string>(node[1])) {
            made.items.emplace_back();
            made.items.back().kind = Expression::Kind::chars;
            made.items.back().ranges.emplace_back(int32_t(c), int32_t(c));
        }
    } else if (kind == "chars") {
        made.kind = Expression::Kind::chars;
        made.ranges = py::cast<std::vector<CodeRange>>(node[1]);
    } else if (kind == "repeat") {
        made.kind = Expression::Kind::repeat;
        made.items.push_back(expression_of(node[1]));
        made.least = py::cast<int64_t>(node[2]);
        made.most = py::cast<int64_t>(node[3]);
    } else {
        made.kind = kind == "alt" ? Expression::Kind::alt : Expression::Kind::seq;
        for (const py::handle item : node[1]) made.items.push_back(expression_of(py::cast<py::tuple>(item)));
    }
    return made;
}

Automaton automaton_of(const Lists& lists) {
    const auto& [edges, accepting] = lists;
    if (edges.empty() || edges.size() != accepting.size()) throw py::value_error("an automaton without states");
    Automaton made;
    made.accepting.assign(accepting.begin(), accepting.end());
    for (const auto& row : edges) {
        made.edges.emplace_back();
        for (const auto& [lo, hi, target] : row) {
            if (target < 0 || size_t(target) >= edges.size()) throw py::value_error("an edge leads to no state");
            made.edges.back().push_back({lo, hi, target});
        }
    }
    return made;
}

Lists lists_of(const Automaton& a) {
    Lists made;
    made.second.assign(a.accepting.begin(), a.accepting.end());
    for (const auto& row : a.edges) {
        made.first.emplace_back();
        for (const CodeEdge& edge : row) made.first.back().emplace_back(edge.lo, edge.hi, edge.target);
    }
    return made;
}

AutomatonLimits limits_of(const Limits& limits) {
    return {std::get<0>(limits), std::get<1>(limits), std::get<2>(limits)};
}

}  // namespace

void bind_automata(py::module_& m) {
    m.def(
        "determinize",
        [](const py::tuple& node, const Limits& limits) {
            return lists_of(determinize(expression_of(node), limits_of(limits)));
        },
        py::arg("expression"), py::arg("limits"));
    m.def(
        "product",
        [](const Lists& a, const Lists& b, bool without, const Limits& limits) {
            return lists_of(product(automaton_of(a), automaton_of(b), without, limits_of(limits)));
        },
        py::arg("a"), py::arg("b"), py::arg("without"), py::arg("limits"));
    m.def("trimmed", [](const Lists& a) { return lists_of(trimmed(automaton_of(a))); }, py::arg("a"));
    m.def(
        "spelled",
        [](const Lists& a, const Spellings& spellings) { return lists_of(spelled(automaton_of(a), spellings)); },
        py::arg("a"), py::arg("spellings"));
}
