// Cross-entropy of a model's last product, and its gradients, without the logits of all rows at once.
#pragma once

#include <functional>

#include "cpu/gemm.h"

namespace lk::cpu {

// Logits are x W^T + h b^T, of the rows whose target is not negative and whose weight is not 0. Without dx the loss is
// all that is made.
struct HeadLoss {
    int64_t n_row, n_embd, n_vocab, rank, chunk;  // rank: of h, 0 without it; chunk: rows of logits at a time
    const float* x;                               // (n_row, n_embd)
    const int32_t* targets;                       // (n_row,)
    const float* weights;                         // (n_row,)
    const WeightView* weight;                     // (n_vocab, n_embd)
    const float* h;                               // (n_row, rank)
    const WeightView* b;                          // (n_vocab, rank)
    float* loss;                                  // (n_row,): -log softmax(logits)[target], without the weight
    float *dx, *dh;                               // as x and h: gradients of the sum of weight * loss
    float *weight_grad, *b_grad;                  // to which gradients are added, or null
    bool pairs = false;                           // products of bfloat16 where there are such
    // y (n, n_vocab) = x (n, n_embd) W^T in the form in which the weight is served; if empty, in float32.
    std::function<void(const float* x, int64_t n, float* y)> native;
};

WorkspaceFloats head_loss_floats(const HeadLoss& t);
void head_loss(const KernelTable& kernels, Pool& pool, Workspace& memory, const HeadLoss& t);

}  // namespace lk::cpu
