// Which tokens a grammar allows next, as bit masks, and where a text stands in it.
//
// Masks are remembered by configuration. What a rule with a loop allows (the inside of a string, say) depends on what
// is around it only in the tokens that leave the rule; so it is worked out once with the stack cut at the rule, and
// the few tokens that leave are followed in each place apart.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "grammar/machine.h"
#include "grammar/trie.h"

namespace lk::grammar {

struct Mask {
    std::vector<uint32_t> bits;  // of token i: bit i % 32 of word i / 32
    int32_t count = 0;           // of the set bits
    int32_t only = -1;           // the token, if there is just one
};

// A grammar made ready for a vocabulary; used by any number of matchers on any threads.
class Program {
  public:
    Program(Network network, std::shared_ptr<const Trie> trie);

    const Trie& trie() const { return *trie_; }
    // Make the masks of the first `n_mask` places that a text can come to.
    void warm(size_t n_mask);
    // Bytes that its memory of configurations and masks takes, roughly.
    size_t n_byte() const;
    size_t n_config() const { return machine_->n_config(); }

  private:
    friend class Matcher;
    int64_t done() const { return forgotten_ + machine_->done(); }
    struct Local {  // the mask of a rule by itself, and the nodes of the tree at which it can be left
        std::vector<uint32_t> bits;
        std::vector<int32_t> leaves;
    };
    struct Loop {  // which bytes and characters lead a configuration back to itself
        uint64_t ascii[2] = {0, 0};
        bool wide = false;
    };
    struct Cut {
        int32_t local = kDead;     // the configuration with its stacks cut off
        int32_t frame = kBottom;   // where
        int64_t room = INT64_MAX;  // turns that repetitions without a count in `local` really have left
    };

    std::shared_ptr<const Mask> mask(int32_t config);
    std::shared_ptr<const Mask> make_mask(int32_t config);
    const Local& local(int32_t config);
    Cut cut(int32_t config);
    int32_t find_frame(const std::vector<Item>& items) const;
    int32_t shortened(int32_t stack, int32_t frame, int64_t& room);
    void walk(int32_t config, int32_t first, int32_t last, std::vector<uint32_t>& bits, std::vector<int32_t>* leaves);
    void drop_long(int32_t config, int64_t room, std::vector<uint32_t>& bits);
    const Loop& loop(int32_t config);
    bool takes_all(int32_t config, int32_t node);
    bool loops_on_wide(int32_t config);
    void forget();

    std::mutex mutex_;
    std::shared_ptr<const Trie> trie_;
    std::unique_ptr<Machine> machine_;
    Network network_;  // kept to start anew when too much was remembered
    int32_t generation_ = 0;
    int64_t forgotten_ = 0;  // what was done by machines that are gone
    std::unordered_map<int32_t, std::shared_ptr<const Mask>> masks_;
    std::unordered_map<int32_t, Local> locals_;
    std::vector<std::unique_ptr<Loop>> loops_;  // by configuration
    std::vector<int32_t> path_;                 // configurations along a walk, by depth
};

// What the matchers that this thread asked have done so far, in states and edges that were looked at.
int64_t work_of_thread();

// The place of one text in a grammar. Copies go on by themselves, but share what work may still be done.
class Matcher {
  public:
    explicit Matcher(std::shared_ptr<Program> program);

    // The tokens that may follow. Throws GrammarError where the grammar's limits are met.
    std::shared_ptr<const Mask> mask();
    // Whether the token may follow; what `mask` would say, without making one.
    bool permits(int32_t token);
    // Go on by a token; false, and no change, if it is not allowed.
    bool accept(int32_t token);
    // Go on by bytes, as one token of the history.
    bool accept_bytes(const std::string& bytes);
    bool can_end();
    bool ended() const { return ended_; }
    // Take back the last tokens.
    void rewind(size_t n_token);
    size_t n_token() const { return history_.size(); }
    // Tokens that follow without a choice, at most `most`.
    std::vector<int32_t> forced(size_t most);
    // The bytes that follow without a choice, at most `most`.
    std::string forced_bytes(size_t most);
    const std::shared_ptr<Program>& program() const { return program_; }

  private:
    struct Step {
        int32_t token;  // -1: bytes
        std::string bytes;
    };
    // Counts what a program does for this thread.
    class Count {
      public:
        explicit Count(const Program& program) : program_(program), before_(program.done()) {}
        ~Count();
        Count(const Count&) = delete;
        Count& operator=(const Count&) = delete;

      private:
        const Program& program_;
        int64_t before_;
    };
    // A method at work: alone with the program, and within the work that this text has left.
    class Turn {
      public:
        explicit Turn(Matcher& matcher);
        ~Turn();
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;

      private:
        Matcher& matcher_;
        const std::lock_guard<std::mutex> lock_;
        const Count count_;
    };

    void refresh();  // find the place again if the program forgot its configurations
    int32_t next(int32_t config, int32_t token) const;
    int32_t read(int32_t config, const std::string& bytes) const;

    std::shared_ptr<Program> program_;
    int32_t generation_ = -1;
    std::vector<int32_t> configs_;  // before each step, and now
    std::vector<Step> history_;
    bool ended_ = false;
    std::shared_ptr<int64_t> left_;  // work that it and its copies may still take
};

}  // namespace lk::grammar
