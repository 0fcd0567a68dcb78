// A grammar as a network of states over bytes: rules call one another, repetitions count natively.
//
// Built bottom-up by `NetworkBuilder`, one call for each node of the grammar's tree, children first, so that no depth
// of a tree needs depth of the stack. `finish` removes what can never be completed and finds the classes of bytes that
// the network tells apart.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace lk::grammar {

// A grammar that cannot be used: it matches nothing, or is larger than the limits.
struct GrammarError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

enum class Kind : uint8_t {
    edges,  // reads a byte
    eps,    // goes on to any of its targets
    call,   // enters rule `a`, comes back to state `b`
    ret,    // the end of a rule
    open,   // enters repetition `a`
    close,  // one turn of repetition `a` is complete
    token,  // reads one token of set `a` as a whole, goes on to `b`
};

struct Edge {
    uint8_t lo, hi;
    int32_t target;
};

struct State {
    Kind kind;
    bool tail = false;  // of a call: nothing follows it in its rule, so no return is needed
    int32_t a = -1, b = -1;
    uint32_t first = 0, n = 0;  // edges, or targets
};

struct Repeat {
    int32_t start, exit;  // the first state of a turn; where it goes on behind the last
    int64_t least, most;  // most < 0: without end
};

struct TokenSet {
    std::vector<int32_t> ids;  // sorted
    bool negated;
    bool contains(int32_t id) const;
};

struct Network {
    std::vector<State> states;
    std::vector<Edge> edges;
    std::vector<int32_t> targets;
    std::vector<Repeat> repeats;
    std::vector<TokenSet> token_sets;
    std::vector<int32_t> entries;  // of rules
    std::vector<bool> alive;       // states from which the end of their rule can be reached
    std::vector<bool> cuttable;    // rules with a loop: worth a mask of their own
    int32_t root = 0;
    uint8_t class_of[256];         // bytes that no edge tells apart are one class
    std::vector<uint8_t> byte_of;  // a byte of each class

    int32_t n_class() const { return int32_t(byte_of.size()); }
};

class NetworkBuilder {
  public:
    using Range = std::pair<int32_t, int32_t>;  // of code points, both ends in it

    explicit NetworkBuilder(int32_t n_rule) : entries_(size_t(n_rule), -1) {}

    // Each returns the number of a node; a node is used once, as a child or as a rule's body.
    int32_t text(const std::string& bytes);
    int32_t chars(const std::vector<Range>& ranges);
    int32_t tokens(std::vector<int32_t> ids, bool negated);
    int32_t ref(int32_t rule);
    int32_t seq(const std::vector<int32_t>& items);
    int32_t alt(const std::vector<int32_t>& items);
    int32_t repeat(int32_t item, int64_t least, int64_t most);
    // edges (lo, hi, target) of code points for each state; it starts in state 0.
    int32_t automaton(const std::vector<std::vector<std::tuple<int32_t, int32_t, int32_t>>>& edges,
                      const std::vector<bool>& accepting);
    void rule(int32_t number, int32_t body);
    // The network, for the rule `root`. Throws GrammarError.
    Network finish(int32_t root);

  private:
    struct Fragment {
        int32_t in, out;
        bool loop;  // holds a loop
    };
    struct Draft {  // a state that still grows
        State state;
        std::vector<Edge> edges;
        std::vector<int32_t> targets;
    };

    int32_t add(Kind kind, int32_t a = -1, int32_t b = -1);
    int32_t node(int32_t in, int32_t out, bool loop = false);
    void join(int32_t from, int32_t to) { drafts_[size_t(from)].targets.push_back(to); }
    const Fragment& fragment(int32_t number) const;
    void read(int32_t from, const std::vector<Range>& ranges, int32_t to);
    bool passes(int32_t from, int32_t to, const std::vector<bool>& nullable);
    void find_nullable(Network& net);
    void find_alive(Network& net) const;
    void find_tails(Network& net) const;
    void find_classes(Network& net) const;
    void find_cuttable(Network& net) const;

    std::vector<Draft> drafts_;
    std::vector<Fragment> fragments_;
    std::vector<int32_t> entries_;
    std::vector<bool> rule_loops_ = std::vector<bool>(entries_.size());
    std::vector<std::vector<int32_t>> called_;
    std::vector<Repeat> repeats_;
    std::vector<int32_t> closes_;
    std::vector<TokenSet> token_sets_;
    std::vector<int32_t> seen_;
    int32_t epoch_ = 0;
    size_t steps_ = 0;
};

}  // namespace lk::grammar
