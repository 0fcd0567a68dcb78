#include "grammar/automata.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "grammar/network.h"

namespace lk::grammar {

namespace {

using States = std::vector<int32_t>;  // sorted

// Edges over ranges, and edges that read nothing.
class Nondeterministic {
  public:
    explicit Nondeterministic(const AutomatonLimits& limits) : limits_(limits) {}

    int32_t add() {
        if (edges.size() >= 10 * limits_.states) throw GrammarError("a condition on a text is too large");
        edges.emplace_back();
        free.emplace_back();
        return int32_t(edges.size()) - 1;
    }

    // The states of an expression behind `start`; returns its end. Trees are not deep (`ir.MAX_DEPTH`).
    int32_t write(const Expression& e, int32_t start) {
        switch (e.kind) {
            case Expression::Kind::chars: {
                const int32_t end = add();
                for (const auto& [lo, hi] : e.ranges) edges[size_t(start)].push_back({lo, hi, end});
                return end;
            }
            case Expression::Kind::seq:
                for (const Expression& item : e.items) start = write(item, start);
                return start;
            case Expression::Kind::alt: {
                const int32_t end = add();
                for (const Expression& item : e.items) {
                    const int32_t begin = add();
                    free[size_t(start)].push_back(begin);
                    const int32_t last = write(item, begin);
                    free[size_t(last)].push_back(end);
                }
                return end;
            }
            case Expression::Kind::repeat:
                break;
        }
        return repeat(e, start);
    }

    void close(States& states) {
        mark_.resize(edges.size(), 0);
        ++round_;
        for (const int32_t s : states) mark_[size_t(s)] = round_;
        for (size_t i = 0; i < states.size(); ++i) {
            for (const int32_t target : free[size_t(states[i])]) {
                if (mark_[size_t(target)] == round_) continue;
                mark_[size_t(target)] = round_;
                states.push_back(target);
            }
        }
        std::sort(states.begin(), states.end());
    }

    std::vector<std::vector<CodeEdge>> edges;
    std::vector<States> free;

  private:
    int32_t repeat(const Expression& e, int32_t start) {
        if (std::max(e.least, e.most) > limits_.turns) {
            throw GrammarError("a repetition in a condition on a text has more than " + std::to_string(limits_.turns) +
                               " turns");
        }
        const Expression& item = e.items[0];
        for (int64_t i = 0; i < e.least; ++i) start = write(item, start);
        const int32_t end = add();
        free[size_t(start)].push_back(end);
        if (e.most < 0) {
            const int32_t begin = add();
            free[size_t(start)].push_back(begin);
            const int32_t last = write(item, begin);
            free[size_t(last)].push_back(begin);
            free[size_t(last)].push_back(end);
            return end;
        }
        for (int64_t i = e.least; i < e.most; ++i) {
            start = write(item, start);
            free[size_t(start)].push_back(end);
        }
        return end;
    }

    const AutomatonLimits& limits_;
    std::vector<uint32_t> mark_;
    uint32_t round_ = 0;
};

struct HashStates {
    size_t operator()(const States& states) const {
        uint64_t h = 0xCBF29CE484222325u;
        for (const int32_t s : states) h = (h ^ uint32_t(s)) * 0x100000001B3u;
        return size_t(h);
    }
};

int32_t add(Automaton& a, bool accepts, const AutomatonLimits& limits) {
    if (a.size() >= limits.states) {
        throw GrammarError("a condition on a text takes more than " + std::to_string(limits.states) + " states");
    }
    a.edges.emplace_back();
    a.accepting.push_back(accepts);
    return int32_t(a.size()) - 1;
}

// Adds an edge; one that goes on where the last one ended is joined with it.
void append(std::vector<CodeEdge>& edges, int32_t lo, int32_t hi, int32_t target) {
    if (!edges.empty() && edges.back().hi == lo - 1 && edges.back().target == target) {
        edges.back().hi = hi;
    } else {
        edges.push_back({lo, hi, target});
    }
}

}  // namespace

Automaton determinize(const Expression& expression, const AutomatonLimits& limits) {
    Nondeterministic nfa(limits);
    const int32_t start = nfa.add(), end = nfa.write(expression, start);
    std::vector<int32_t> bounds;  // where an edge begins, or one has ended
    for (const auto& edges : nfa.edges) {
        for (const CodeEdge& edge : edges) {
            bounds.push_back(edge.lo);
            bounds.push_back(edge.hi + 1);
        }
    }
    std::sort(bounds.begin(), bounds.end());
    bounds.erase(std::unique(bounds.begin(), bounds.end()), bounds.end());

    Automaton made;
    std::unordered_map<States, int32_t, HashStates> numbers;
    std::vector<const States*> work;  // keys of `numbers`, which stay where they are
    const auto number = [&](States states) {
        nfa.close(states);
        const auto known = numbers.find(states);
        if (known != numbers.end()) return known->second;
        const bool accepts = std::binary_search(states.begin(), states.end(), end);
        const int32_t state = add(made, accepts, limits);
        work.push_back(&numbers.emplace(std::move(states), state).first->first);
        return state;
    };

    number({start});
    std::vector<States> targets(bounds.size());  // by the interval that begins at a bound
    std::vector<size_t> touched;
    size_t done = 0;
    while (!work.empty()) {
        const States& at = *work.back();
        work.pop_back();
        done += at.size();
        if (done > limits.work) throw GrammarError("a condition on a text is too ambiguous to work out");
        for (const int32_t state : at) {
            for (const CodeEdge& edge : nfa.edges[size_t(state)]) {
                size_t i = size_t(std::lower_bound(bounds.begin(), bounds.end(), edge.lo) - bounds.begin());
                for (; i < bounds.size() && bounds[i] <= edge.hi; ++i) {
                    if (targets[i].empty()) touched.push_back(i);
                    targets[i].push_back(edge.target);
                }
            }
        }
        std::sort(touched.begin(), touched.end());
        const size_t from = size_t(numbers.find(at)->second);
        for (const size_t i : touched) {
            States& found = targets[i];
            std::sort(found.begin(), found.end());
            found.erase(std::unique(found.begin(), found.end()), found.end());
            const int32_t target = number(std::move(found));
            found.clear();
            append(made.edges[from], bounds[i], bounds[i + 1] - 1, target);  // the last bound begins nothing
        }
        touched.clear();
    }
    return made;
}

Automaton product(const Automaton& a, const Automaton& b, bool without, const AutomatonLimits& limits) {
    constexpr int32_t kDead = -1;
    Automaton made;
    std::map<std::pair<int32_t, int32_t>, int32_t> numbers;
    std::vector<std::pair<int32_t, int32_t>> work;
    const auto number = [&](int32_t in_a, int32_t in_b) {
        const auto [place, fresh] = numbers.try_emplace({in_a, in_b}, 0);
        if (!fresh) return place->second;
        const bool both = in_b != kDead && b.accepting[size_t(in_b)];
        place->second = add(made, a.accepting[size_t(in_a)] && both != without, limits);
        work.push_back({in_a, in_b});
        return place->second;
    };
    static const std::vector<CodeEdge> none;

    number(0, 0);
    while (!work.empty()) {
        const auto [in_a, in_b] = work.back();
        work.pop_back();
        const size_t from = size_t(numbers.at({in_a, in_b}));
        std::vector<CodeEdge> edges;
        for (const CodeEdge& edge : a.edges[size_t(in_a)]) {
            int32_t at = edge.lo;
            for (const CodeEdge& other : in_b == kDead ? none : b.edges[size_t(in_b)]) {
                if (other.hi < at || other.lo > edge.hi) continue;
                if (other.lo > at && without) append(edges, at, other.lo - 1, number(edge.target, kDead));
                at = std::max(at, other.lo);
                append(edges, at, std::min(other.hi, edge.hi), number(edge.target, other.target));
                at = std::min(other.hi, edge.hi) + 1;
            }
            if (at <= edge.hi && without) append(edges, at, edge.hi, number(edge.target, kDead));
        }
        made.edges[from] = std::move(edges);
    }
    return trimmed(made);
}

Automaton trimmed(const Automaton& a) {
    std::vector<States> before(a.size());
    for (size_t state = 0; state < a.size(); ++state) {
        for (const CodeEdge& edge : a.edges[state]) before[size_t(edge.target)].push_back(int32_t(state));
    }
    std::vector<uint8_t> alive(a.size(), 0);
    States work;
    for (size_t state = 0; state < a.size(); ++state) {
        if (a.accepting[state]) work.push_back(int32_t(state));
    }
    while (!work.empty()) {
        const size_t state = size_t(work.back());
        work.pop_back();
        if (alive[state]) continue;
        alive[state] = 1;
        work.insert(work.end(), before[state].begin(), before[state].end());
    }
    States numbers(a.size(), -1);
    Automaton made;
    for (size_t state = 0; state < a.size(); ++state) {
        if (!alive[state] && state != 0) continue;
        numbers[state] = int32_t(made.size());
        made.accepting.push_back(a.accepting[state]);
        made.edges.emplace_back();
    }
    for (size_t state = 0; state < a.size(); ++state) {
        if (numbers[state] < 0) continue;
        for (const CodeEdge& edge : a.edges[state]) {
            if (!alive[size_t(edge.target)]) continue;
            made.edges[size_t(numbers[state])].push_back({edge.lo, edge.hi, numbers[size_t(edge.target)]});
        }
    }
    return made;
}

namespace {

// Adds the path of a spelling from a state; what others began in the same way is gone along.
void spell(Automaton& made, size_t state, const std::u32string& spelling, int32_t target) {
    for (size_t i = 0; i < spelling.size(); ++i) {
        const int32_t c = int32_t(spelling[i]);
        if (i + 1 == spelling.size()) {
            made.edges[state].push_back({c, c, target});
            return;
        }
        const auto& edges = made.edges[state];
        const auto known = std::find_if(edges.begin(), edges.end(), [&](const CodeEdge& e) { return e.lo == c; });
        if (known != edges.end()) {
            state = size_t(known->target);
            continue;
        }
        const int32_t next = int32_t(made.size());
        made.edges[state].push_back({c, c, next});
        made.edges.emplace_back();
        made.accepting.push_back(0);
        state = size_t(next);
    }
}

// Adds an edge without the surrogates, which are in no text.
void read(std::vector<CodeEdge>& edges, int32_t lo, int32_t hi, int32_t target) {
    constexpr int32_t kFirst = 0xD800, kLast = 0xDFFF;
    if (lo < kFirst) edges.push_back({lo, std::min(hi, kFirst - 1), target});
    if (hi > kLast) edges.push_back({std::max(lo, kLast + 1), hi, target});
}

}  // namespace

Automaton spelled(const Automaton& a, const Spellings& spellings) {
    Automaton made;
    made.edges.resize(a.size());
    made.accepting = a.accepting;
    for (size_t state = 0; state < a.size(); ++state) {
        for (const CodeEdge& edge : a.edges[state]) {
            int32_t at = edge.lo;
            for (const auto& [code, spelling] : spellings) {  // in order
                if (code < at || code > edge.hi) continue;
                if (code > at) read(made.edges[state], at, code - 1, edge.target);
                spell(made, state, spelling, edge.target);
                at = code + 1;
            }
            if (at <= edge.hi) read(made.edges[state], at, edge.hi, edge.target);
        }
    }
    for (auto& edges : made.edges) {
        std::sort(edges.begin(), edges.end(), [](const CodeEdge& x, const CodeEdge& y) { return x.lo < y.lo; });
    }
    return made;
}

}  // namespace lk::grammar
