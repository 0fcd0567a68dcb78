// The states that a grammar can be in after some bytes, made when they are first reached and kept.
//
// A configuration is a set of (state of the network, stack); stacks share their tails. Equal stacks and equal
// configurations are one object, so a step that was taken once is a look-up.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "grammar/network.h"

namespace lk::grammar {

struct Item {
    int32_t state, stack;
    bool operator==(const Item& o) const { return state == o.state && stack == o.stack; }
    bool operator<(const Item& o) const { return stack != o.stack ? stack < o.stack : state < o.state; }
};

// `code`: the state whose call is open, or ~r for an open repetition r with `count` turns complete. A count of
// `kEndless` stands for "enough of them, and no end in sight"; masks are made with it.
struct Frame {
    int32_t code;
    int64_t count;
    int32_t parent;
};

constexpr int64_t kEndless = -1;
constexpr int32_t kDead = 0;    // the configuration in which nothing can follow
constexpr int32_t kBottom = 0;  // the empty stack

class Machine {
  public:
    explicit Machine(Network network);

    int32_t start() const { return start_; }
    // After one more byte. Throws GrammarError where a limit is met.
    int32_t step(int32_t config, uint8_t byte) {
        const int32_t next = next_[size_t(config) * stride_ + net_.class_of[byte]];
        return next >= 0 ? next : make_step(config, net_.class_of[byte]);
    }
    int32_t step_token(int32_t config, int32_t token);  // by the tokens that the grammar names alone
    int32_t unite(int32_t a, int32_t b);
    bool accepts(int32_t config) const { return configs_[size_t(config)].accepts; }
    bool reads_tokens(int32_t config) const { return configs_[size_t(config)].reads_tokens; }
    const std::vector<Item>& items(int32_t config) const { return configs_[size_t(config)].items; }
    const Frame& frame(int32_t stack) const { return frames_[size_t(stack)]; }
    const Network& network() const { return net_; }
    size_t n_config() const { return configs_.size(); }
    // Bytes that all of it takes, roughly.
    size_t n_byte() const {
        return next_.size() * 4 + configs_.size() * 96 + n_item_ * sizeof(Item) + frames_.size() * 96;
    }
    // How much work may be done from now on: states and edges that are looked at. What is more throws GrammarError.
    void allow(int64_t work) { left_ = work; }
    int64_t left() const { return left_; }
    // What was done since it was made.
    int64_t done() const { return done_; }
    void spend(size_t work);
    // A configuration from items that are complete (no closure is made), accepting or not.
    int32_t intern(std::vector<Item> items, bool accepts);
    // The configuration behind the call of a frame: where its rule is left.
    int32_t after(int32_t stack);
    int32_t push(int32_t code, int64_t count, int32_t parent);

  private:
    struct Config {
        std::vector<Item> items;
        bool accepts = false, reads_tokens = false;
    };
    struct Work {
        int32_t state, stack, fresh;  // `fresh`: frames at the top within which nothing was read yet
    };
    struct Key {
        int64_t a, b;
        bool operator==(const Key& o) const { return a == o.a && b == o.b; }
    };
    struct KeyHash {
        size_t operator()(const Key& k) const {
            return size_t((uint64_t(k.a) * 0x9E3779B97F4A7C15u) ^ (uint64_t(k.b) * 0xC2B2AE3D27D4EB4Fu) ^
                          (uint64_t(k.a) >> 29));
        }
    };

    int32_t make_step(int32_t config, int32_t cls);
    int32_t close();  // the configuration that `work_` leads to
    void close_turn(const Work& w);
    bool first_time(const Work& w);

    Network net_;
    size_t stride_;
    std::vector<Frame> frames_;
    std::unordered_map<Key, std::vector<int32_t>, KeyHash> frame_ids_;
    std::vector<Config> configs_;
    std::unordered_map<uint64_t, std::vector<int32_t>> config_ids_;
    std::vector<int32_t> next_;  // of every configuration and class of bytes; -1: not made yet
    std::vector<Work> work_;
    std::vector<Work> seen_;  // a hash table with open addressing
    std::vector<uint32_t> seen_epoch_;
    uint32_t epoch_ = 0;
    size_t n_seen_ = 0;
    size_t n_item_ = 0;  // of all configurations
    int64_t left_ = INT64_MAX, done_ = 0;
    int32_t start_ = kDead;
};

}  // namespace lk::grammar
