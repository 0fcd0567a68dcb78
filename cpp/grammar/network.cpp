#include "grammar/network.h"

#include <algorithm>
#include <map>

#include "grammar/utf8_ranges.h"

namespace lk::grammar {
namespace {

constexpr size_t kMostStates = size_t(4) << 20;
constexpr int64_t kLongRepeat = 8;              // from here on a bounded repetition counts as a loop
constexpr size_t kMostSteps = size_t(4) << 20;  // that looking for empty turns may take

// Append `from` to `to`; the longer of the two is not copied.
void merge(std::vector<int32_t>& to, std::vector<int32_t>& from) {
    if (to.size() < from.size()) to.swap(from);
    to.insert(to.end(), from.begin(), from.end());
    from.clear();
}

}  // namespace

bool TokenSet::contains(int32_t id) const {
    return std::binary_search(ids.begin(), ids.end(), id) != negated;
}

int32_t NetworkBuilder::add(Kind kind, int32_t a, int32_t b) {
    if (drafts_.size() >= kMostStates) throw GrammarError("the grammar has too many states");
    drafts_.push_back({});
    drafts_.back().state.kind = kind;
    drafts_.back().state.a = a;
    drafts_.back().state.b = b;
    return int32_t(drafts_.size()) - 1;
}

int32_t NetworkBuilder::node(int32_t in, int32_t out, bool loop) {
    fragments_.push_back({in, out, loop});
    called_.emplace_back();
    return int32_t(fragments_.size()) - 1;
}

const NetworkBuilder::Fragment& NetworkBuilder::fragment(int32_t number) const {
    if (number < 0 || size_t(number) >= fragments_.size()) throw GrammarError("a node names no other node");
    return fragments_[size_t(number)];
}

int32_t NetworkBuilder::text(const std::string& bytes) {
    const int32_t in = add(Kind::eps);
    int32_t at = in;
    for (const char byte : bytes) {
        const int32_t reads = add(Kind::edges), next = add(Kind::eps);
        join(at, reads);
        drafts_[size_t(reads)].edges.push_back({uint8_t(byte), uint8_t(byte), next});
        at = next;
    }
    return node(in, at);
}

// Edges from the state `from`, which reads, over all UTF-8 forms of the code points to `to`.
void NetworkBuilder::read(int32_t from, const std::vector<Range>& ranges, int32_t to) {
    std::vector<ByteSequence> sequences;
    for (const auto& [lo, hi] : ranges) utf8_sequences(lo, hi, sequences);
    std::map<ByteSequence, int32_t> rests;  // states that read the rest of a sequence
    for (const ByteSequence& sequence : sequences) {
        int32_t next = to;
        for (size_t i = sequence.size(); i-- > 1;) {
            const ByteSequence rest(sequence.begin() + ptrdiff_t(i), sequence.end());
            const auto found = rests.find(rest);
            if (found != rests.end()) {
                next = found->second;
                continue;
            }
            const int32_t state = add(Kind::edges);
            drafts_[size_t(state)].edges.push_back({sequence[i].lo, sequence[i].hi, next});
            next = rests[rest] = state;
        }
        drafts_[size_t(from)].edges.push_back({sequence[0].lo, sequence[0].hi, next});
    }
}

int32_t NetworkBuilder::chars(const std::vector<Range>& ranges) {
    const int32_t in = add(Kind::edges), out = add(Kind::eps);
    read(in, ranges, out);
    return node(in, out);
}

int32_t NetworkBuilder::tokens(std::vector<int32_t> ids, bool negated) {
    std::sort(ids.begin(), ids.end());
    token_sets_.push_back({std::move(ids), negated});
    const int32_t out = add(Kind::eps);
    return node(add(Kind::token, int32_t(token_sets_.size()) - 1, out), out);
}

int32_t NetworkBuilder::ref(int32_t rule) {
    if (rule < 0 || size_t(rule) >= entries_.size()) throw GrammarError("a reference names no rule");
    const int32_t out = add(Kind::eps);
    const int32_t number = node(add(Kind::call, rule, out), out);
    called_[size_t(number)].push_back(rule);
    return number;
}

int32_t NetworkBuilder::seq(const std::vector<int32_t>& items) {
    const int32_t in = add(Kind::eps);
    int32_t at = in;
    bool loop = false;
    std::vector<int32_t> called;
    for (const int32_t item : items) {
        const Fragment f = fragment(item);
        join(at, f.in);
        at = f.out;
        loop |= f.loop;
        merge(called, called_[size_t(item)]);
    }
    const int32_t number = node(in, at, loop);
    called_[size_t(number)] = std::move(called);
    return number;
}

int32_t NetworkBuilder::alt(const std::vector<int32_t>& items) {
    const int32_t in = add(Kind::eps), out = add(Kind::eps);
    bool loop = false;
    std::vector<int32_t> called;
    for (const int32_t item : items) {
        const Fragment f = fragment(item);
        join(in, f.in);
        join(f.out, out);
        loop |= f.loop;
        merge(called, called_[size_t(item)]);
    }
    const int32_t number = node(in, out, loop);
    called_[size_t(number)] = std::move(called);
    return number;
}

int32_t NetworkBuilder::repeat(int32_t item, int64_t least, int64_t most) {
    if (least < 0 || (most >= 0 && most < least)) throw GrammarError("a repetition has its bounds the wrong way round");
    const Fragment f = fragment(item);
    const int32_t out = add(Kind::eps);
    const bool loop = f.loop || most < 0 || most >= kLongRepeat;
    int32_t in;
    if (most < 0 && least <= 1) {  // a plain loop needs no counting
        in = add(Kind::eps);
        join(in, f.in);
        join(f.out, f.in);
        join(f.out, out);
        if (least == 0) join(in, out);
    } else if (most == 0) {
        in = add(Kind::eps);
        join(in, out);
    } else if (most == 1) {
        in = add(Kind::eps);
        join(in, f.in);
        join(f.out, out);
        if (least == 0) join(in, out);
    } else {
        const int32_t number = int32_t(repeats_.size());
        repeats_.push_back({f.in, out, least, most});
        in = add(Kind::open, number);
        closes_.push_back(add(Kind::close, number));
        join(f.out, closes_.back());
    }
    const int32_t made = node(in, out, loop);
    merge(called_[size_t(made)], called_[size_t(item)]);
    return made;
}

int32_t NetworkBuilder::automaton(const std::vector<std::vector<std::tuple<int32_t, int32_t, int32_t>>>& edges,
                                  const std::vector<bool>& accepting) {
    if (edges.empty() || accepting.size() != edges.size()) throw GrammarError("an automaton without states");
    const int32_t out = add(Kind::eps);
    std::vector<int32_t> states;
    bool loop = false;
    for (size_t i = 0; i < edges.size(); ++i) {
        states.push_back(add(Kind::eps));
        if (accepting[i]) join(states.back(), out);
    }
    for (size_t i = 0; i < edges.size(); ++i) {
        std::map<int32_t, std::vector<Range>> by_target;
        for (const auto& [lo, hi, target] : edges[i]) {
            if (target < 0 || size_t(target) >= edges.size()) throw GrammarError("an edge to no state");
            by_target[target].push_back({lo, hi});
            loop |= size_t(target) <= i;
        }
        const int32_t reads = add(Kind::edges);
        join(states[i], reads);
        for (const auto& [target, ranges] : by_target) read(reads, ranges, states[size_t(target)]);
    }
    return node(states[0], out, loop);
}

void NetworkBuilder::rule(int32_t number, int32_t body) {
    if (number < 0 || size_t(number) >= entries_.size()) throw GrammarError("no such rule");
    const Fragment f = fragment(body);
    entries_[size_t(number)] = f.in;
    rule_loops_[size_t(number)] = f.loop;
    const int32_t end = add(Kind::ret);
    join(f.out, end);
    drafts_[size_t(end)].state.a = number;
    drafts_[size_t(end)].targets = std::move(called_[size_t(body)]);  // the rules that it calls
}

Network NetworkBuilder::finish(int32_t root) {
    Network net;
    if (root < 0 || size_t(root) >= entries_.size()) throw GrammarError("no such rule");
    for (size_t i = 0; i < entries_.size(); ++i)
        if (entries_[i] < 0) throw GrammarError("a rule has no body");
    net.root = root;
    net.entries = entries_;
    net.repeats = repeats_;
    net.token_sets = token_sets_;
    for (const Draft& draft : drafts_) {
        State state = draft.state;
        if (state.kind == Kind::edges) {
            state.first = uint32_t(net.edges.size()), state.n = uint32_t(draft.edges.size());
            net.edges.insert(net.edges.end(), draft.edges.begin(), draft.edges.end());
        } else if (state.kind == Kind::eps) {
            state.first = uint32_t(net.targets.size()), state.n = uint32_t(draft.targets.size());
            net.targets.insert(net.targets.end(), draft.targets.begin(), draft.targets.end());
        }
        net.states.push_back(state);
    }
    find_nullable(net);
    find_alive(net);
    if (!net.alive[size_t(net.entries[size_t(root)])]) throw GrammarError("the grammar matches nothing");
    find_tails(net);
    find_classes(net);
    find_cuttable(net);
    return net;
}

// Whether `to` can be reached from `from` without reading anything; `nullable` says so of rules.
bool NetworkBuilder::passes(int32_t from, int32_t to, const std::vector<bool>& nullable) {
    seen_.resize(drafts_.size(), 0);
    ++epoch_;
    std::vector<int32_t> work{from};
    while (!work.empty()) {
        const int32_t at = work.back();
        work.pop_back();
        if (at == to) return true;
        if (seen_[size_t(at)] == epoch_) continue;
        seen_[size_t(at)] = epoch_;
        if (++steps_ > kMostSteps) throw GrammarError("the grammar has too many repetitions with a lower bound");
        const Draft& draft = drafts_[size_t(at)];
        const State& s = draft.state;
        if (s.kind == Kind::eps) work.insert(work.end(), draft.targets.begin(), draft.targets.end());
        if (s.kind == Kind::call && nullable[size_t(s.a)]) work.push_back(s.b);
        if (s.kind == Kind::open && repeats_[size_t(s.a)].least == 0) work.push_back(repeats_[size_t(s.a)].exit);
        if (s.kind == Kind::open) work.push_back(repeats_[size_t(s.a)].start);
        if (s.kind == Kind::close) work.push_back(repeats_[size_t(s.a)].exit);  // a turn was empty, so all can be
    }
    return false;
}

// A repetition of something that may be empty needs no turns at all: (x?){3,5} is (x?){0,5}.
void NetworkBuilder::find_nullable(Network& net) {
    // Rules that can be empty, by a worklist over the whole network: a state is "empty" if its rule's end is reached.
    std::vector<bool> nullable(entries_.size()), empty(drafts_.size());
    std::vector<std::vector<int32_t>> before(drafts_.size()), callers(entries_.size());
    std::vector<int32_t> work;
    for (size_t i = 0; i < drafts_.size(); ++i) {
        const State& s = drafts_[i].state;
        if (s.kind == Kind::eps)
            for (const int32_t t : drafts_[i].targets) before[size_t(t)].push_back(int32_t(i));
        if (s.kind == Kind::call) before[size_t(s.b)].push_back(int32_t(i)), callers[size_t(s.a)].push_back(int32_t(i));
        if (s.kind == Kind::open) {
            const Repeat& r = repeats_[size_t(s.a)];
            before[size_t(r.start)].push_back(int32_t(i));
            if (r.least == 0) before[size_t(r.exit)].push_back(int32_t(i));
        }
        if (s.kind == Kind::close) before[size_t(repeats_[size_t(s.a)].exit)].push_back(int32_t(i));
        if (s.kind == Kind::ret) work.push_back(int32_t(i));
    }
    const auto reach = [&](int32_t at) {
        const State& s = drafts_[size_t(at)].state;
        if (s.kind == Kind::call && !(empty[size_t(s.b)] && nullable[size_t(s.a)])) return;
        if (!empty[size_t(at)]) work.push_back(at);
    };
    std::vector<std::vector<int32_t>> rules_at(drafts_.size());
    for (size_t r = 0; r < entries_.size(); ++r) rules_at[size_t(entries_[r])].push_back(int32_t(r));
    while (!work.empty()) {
        const int32_t at = work.back();
        work.pop_back();
        if (empty[size_t(at)]) continue;
        empty[size_t(at)] = true;
        for (const int32_t rule : rules_at[size_t(at)]) {
            nullable[size_t(rule)] = true;
            for (const int32_t caller : callers[size_t(rule)]) reach(caller);
        }
        for (const int32_t b : before[size_t(at)]) reach(b);
    }
    for (size_t i = 0; i < repeats_.size(); ++i)
        if (repeats_[i].least > 0 && passes(repeats_[i].start, closes_[i], nullable))
            repeats_[i].least = net.repeats[i].least = 0;
}

void NetworkBuilder::find_alive(Network& net) const {
    net.alive.assign(net.states.size(), false);
    std::vector<std::vector<int32_t>> before(net.states.size()), callers(net.entries.size());
    std::vector<std::vector<int32_t>> rules_at(net.states.size());
    for (size_t r = 0; r < net.entries.size(); ++r) rules_at[size_t(net.entries[r])].push_back(int32_t(r));
    std::vector<bool> productive(net.entries.size());
    std::vector<int32_t> work;
    for (size_t i = 0; i < net.states.size(); ++i) {
        const State& s = net.states[i];
        const auto leads = [&](int32_t to) { before[size_t(to)].push_back(int32_t(i)); };
        switch (s.kind) {
            case Kind::edges:
                for (uint32_t e = s.first; e < s.first + s.n; ++e) leads(net.edges[e].target);
                break;
            case Kind::eps:
                for (uint32_t t = s.first; t < s.first + s.n; ++t) leads(net.targets[t]);
                break;
            case Kind::call:
                leads(s.b), callers[size_t(s.a)].push_back(int32_t(i));
                break;
            case Kind::ret:
                work.push_back(int32_t(i));
                break;
            case Kind::open:
                leads(net.repeats[size_t(s.a)].start);
                if (net.repeats[size_t(s.a)].least == 0) leads(net.repeats[size_t(s.a)].exit);
                break;
            case Kind::close:
                leads(net.repeats[size_t(s.a)].exit);
                break;
            case Kind::token:
                leads(s.b);
                break;
        }
    }
    const auto reach = [&](int32_t at) {
        const State& s = net.states[size_t(at)];
        if (s.kind == Kind::call && !(net.alive[size_t(s.b)] && productive[size_t(s.a)])) return;
        if (!net.alive[size_t(at)]) work.push_back(at);
    };
    while (!work.empty()) {
        const int32_t at = work.back();
        work.pop_back();
        if (net.alive[size_t(at)]) continue;
        net.alive[size_t(at)] = true;
        for (const int32_t rule : rules_at[size_t(at)]) {
            productive[size_t(rule)] = true;
            for (const int32_t caller : callers[size_t(rule)]) reach(caller);
        }
        for (const int32_t b : before[size_t(at)]) reach(b);
    }
}

// Calls behind which their rule ends: no frame is needed, so lists written by recursion to the right stay flat.
void NetworkBuilder::find_tails(Network& net) const {
    for (State& s : net.states) {
        if (s.kind != Kind::call) continue;
        int32_t at = s.b;
        for (int steps = 0; steps < 64; ++steps) {
            const State& next = net.states[size_t(at)];
            if (next.kind != Kind::eps || next.n != 1) break;
            at = net.targets[next.first];
        }
        s.tail = net.states[size_t(at)].kind == Kind::ret;
    }
}

void NetworkBuilder::find_classes(Network& net) const {
    bool cut[257] = {true};
    for (const Edge& edge : net.edges) cut[edge.lo] = cut[edge.hi + 1] = true;
    cut[0x80] = true;
    for (int byte = 0; byte < 256; ++byte) {
        if (cut[byte]) net.byte_of.push_back(uint8_t(byte));
        net.class_of[byte] = uint8_t(net.byte_of.size() - 1);
    }
}

// Rules with a loop of their own, and rules that call themselves in any way.
void NetworkBuilder::find_cuttable(Network& net) const {
    const size_t n = entries_.size();
    net.cuttable.assign(n, false);
    std::vector<std::vector<int32_t>> calls(n);
    for (const Draft& draft : drafts_)
        if (draft.state.kind == Kind::ret) calls[size_t(draft.state.a)] = draft.targets;
    std::vector<int32_t> index(n, -1), low(n), stack;
    std::vector<bool> on(n);
    std::vector<std::pair<int32_t, size_t>> path;  // Tarjan's strongly connected components, with a stack of its own
    int32_t next = 0;
    for (size_t start = 0; start < n; ++start) {
        net.cuttable[start] = net.cuttable[start] || rule_loops_[start];
        if (index[start] >= 0) continue;
        path.push_back({int32_t(start), 0});
        while (!path.empty()) {
            const size_t at = size_t(path.back().first);
            if (path.back().second == 0) index[at] = low[at] = next++, stack.push_back(int32_t(at)), on[at] = true;
            if (path.back().second < calls[at].size()) {
                const size_t to = size_t(calls[at][path.back().second++]);
                if (to == at) net.cuttable[at] = true;
                if (index[to] < 0)
                    path.push_back({int32_t(to), 0});
                else if (on[to])
                    low[at] = std::min(low[at], index[to]);
                continue;
            }
            if (low[at] == index[at]) {
                size_t size = 0;
                for (size_t i = stack.size(); i-- > 0 && ++size && size_t(stack[i]) != at;) {
                }
                for (size_t i = 0; i < size; ++i) {
                    if (size > 1) net.cuttable[size_t(stack.back())] = true;
                    on[size_t(stack.back())] = false;
                    stack.pop_back();
                }
            }
            path.pop_back();
            if (!path.empty()) {
                const size_t up = size_t(path.back().first);
                low[up] = std::min(low[up], low[at]);
            }
        }
    }
}

}  // namespace lk::grammar
