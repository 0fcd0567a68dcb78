// Deterministic automata over code points: made from expressions, intersected, written out with escapes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace lk::grammar {

using CodeRange = std::pair<int32_t, int32_t>;  // both ends in it

// A tree over code points. A repetition has one item; `most` -1 is without end.
struct Expression {
    enum class Kind : uint8_t { chars, seq, alt, repeat };
    Kind kind = Kind::seq;
    std::vector<CodeRange> ranges;
    std::vector<Expression> items;
    int64_t least = 0, most = 0;
};

struct CodeEdge {
    int32_t lo, hi, target;
};

// States 0 (the start), 1, ...: disjoint edges in order, and whether they accept.
struct Automaton {
    std::vector<std::vector<CodeEdge>> edges;
    std::vector<uint8_t> accepting;

    size_t size() const { return edges.size(); }
};

// What may be used: states, states of the sets that `determinize` goes through, turns of a repetition, which is
// written out. GrammarError where it is not enough.
struct AutomatonLimits {
    size_t states, work;
    int64_t turns;
};

// The automaton of an expression, by sets of states (Rabin and Scott, 1959).
Automaton determinize(const Expression& expression, const AutomatonLimits& limits);

// Texts that both accept; `without`: that `a` accepts and `b` does not. Trimmed.
Automaton product(const Automaton& a, const Automaton& b, bool without, const AutomatonLimits& limits);

// Without states from which nothing is accepted; the start stays.
Automaton trimmed(const Automaton& a);

// Over what a text says, as one over how it is written: each code point of `spellings` goes through the characters of
// its spelling; common beginnings share states.
using Spellings = std::vector<std::pair<int32_t, std::u32string>>;
Automaton spelled(const Automaton& a, const Spellings& spellings);

}  // namespace lk::grammar
