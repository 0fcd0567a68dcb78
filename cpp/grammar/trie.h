// All tokens of a vocabulary as a tree of bytes, flat and in depth-first order: one for each model, shared.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lk::grammar {

// What lies below a node, for accepting a whole subtree at once.
struct Below {
    uint64_t ascii[2] = {0, 0};  // bytes below 0x80 that occur
    bool wide = false;           // bytes from 0x80 on occur
    bool bad = false;            // bytes occur, the node's own among them, that are no UTF-8
    bool begins = false;         // the node's byte begins a character
};

class Trie {
  public:
    // Bytes of every token; `excluded` ones (control tokens) are never allowed, nor are empty ones.
    Trie(std::vector<std::string> pieces, const std::vector<int32_t>& excluded, std::vector<int32_t> ends);

    int32_t n_vocab() const { return int32_t(pieces_.size()); }
    size_t n_word() const { return (pieces_.size() + 31) / 32; }
    const std::string& piece(int32_t token) const { return pieces_[size_t(token)]; }
    bool excluded(int32_t token) const { return excluded_[size_t(token)]; }
    bool is_end(int32_t token) const { return is_end_[size_t(token)]; }
    const std::vector<int32_t>& ends() const { return ends_; }

    // Nodes 1.. in depth-first order; node 0 is the root.
    struct Node {
        uint8_t byte;
        uint16_t depth;                       // bytes from the root
        int32_t end;                          // the first node behind the subtree
        int32_t tokens, own_end, tokens_end;  // in `order`: the node's own tokens, then those below it
    };
    std::vector<Node> nodes;
    std::vector<Below> below;
    std::vector<int32_t> order;      // tokens in depth-first order
    std::vector<int32_t> by_length;  // tokens of the tree, the longest first
    size_t longest = 0;

  private:
    void describe();

    std::vector<std::string> pieces_;
    std::vector<bool> excluded_, is_end_;
    std::vector<int32_t> ends_;
};

}  // namespace lk::grammar
