/*
 * What llama.cpp takes by the clock of the machine it runs on, which counts instructions where llama_cpp_arm.py starts it.
 *
 *     count_llama MODEL CONTEXT:TOKENS... < tokens
 *
 * One thread, llama.cpp's defaults otherwise. For each pair CONTEXT tokens are computed, then TOKENS more at once, each
 * time after the last is taken back: once for the graph and for memory, which is not counted; then three times, or once
 * where they are many. The tokens are those given. It prints JSON: nanoseconds of loading, and of each time; then, of as
 * many calls more with every node of the graph computed apart, the fewest by kind of node.
 */
#include "llama.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_TOKENS 8192
#define MOST_KINDS 128
#define ROUNDS 3
#define MANY 16

/* Nodes of one kind: an operator; of a product with weights, their type too, and whether they are the head's. */
struct kind {
    const char * op;
    const char * type;
    bool head;
    long nodes;
    int64_t time;
};

struct split {
    struct kind kinds[MOST_KINDS];
    int count;
    int64_t started;
};

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void fail(const char * what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void silent(enum ggml_log_level level, const char * text, void * data) {
    (void) data;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

/* llama.cpp asks before a node and tells after it; asked for every node, it computes each apart. */
static bool after_node(struct ggml_tensor * node, bool ask, void * data) {
    struct split * split = data;
    if (ask) {
        split->started = now();
        return true;
    }
    const int64_t time = now() - split->started;
    const struct ggml_tensor * weight = node->op == GGML_OP_MUL_MAT ? node->src[0] : NULL;
    const char * op = ggml_op_desc(node);
    const char * type = weight ? ggml_type_name(weight->type) : "";
    const bool head = weight && (!strcmp(weight->name, "output.weight") || !strcmp(weight->name, "token_embd.weight"));
    int index = 0;
    while (index < split->count
           && (strcmp(split->kinds[index].op, op) || strcmp(split->kinds[index].type, type) || split->kinds[index].head != head)) {
        index++;
    }
    if (index == MOST_KINDS) {
        fail("more kinds of nodes than there is room for");
    }
    if (index == split->count) {
        split->kinds[split->count++] = (struct kind) { op, type, head, 0, 0 };
    }
    split->kinds[index].nodes++;
    split->kinds[index].time += time;
    return true;
}

static void append(struct llama_context * context, llama_token * tokens, int count) {
    if (llama_decode(context, llama_batch_get_one(tokens, count))) {
        fail("llama_decode failed");
    }
    llama_synchronize(context);
}

static void take_back(struct llama_context * context, int length) {
    if (!llama_memory_seq_rm(llama_get_memory(context), 0, length, -1)) {
        fail("llama.cpp cannot take tokens back");
    }
}

/* The text of `to` becomes that of `from`, uncomputed. */
static void copy_text(struct llama_context * from, struct llama_context * to) {
    const size_t size = llama_state_seq_get_size(from, 0);
    uint8_t * data = malloc(size);
    llama_memory_clear(llama_get_memory(to), true);
    if (!data || llama_state_seq_get_data(from, data, size, 0) != size || llama_state_seq_set_data(to, data, size, 0) != size) {
        fail("llama.cpp cannot copy a text");
    }
    free(data);
}

static void print_split(const struct split * split) {
    for (int i = 0; i < split->count; i++) {
        const struct kind * kind = &split->kinds[i];
        printf("%s{\"op\": \"%s\", \"type\": \"%s\", \"head\": %s, \"nodes\": %ld, \"instructions\": %lld}", i ? ", " : "",
               kind->op, kind->type, kind->head ? "true" : "false", kind->nodes, (long long) kind->time);
    }
}

/* Of each kind the least of all rounds; the same graph gives the same kinds in the same order. */
static void keep_least(struct split * least, const struct split * split) {
    for (int i = 0; i < split->count; i++) {
        if (i == least->count) {
            least->kinds[least->count++] = split->kinds[i];
        } else if (split->kinds[i].time < least->kinds[i].time) {
            least->kinds[i].time = split->kinds[i].time;
        }
    }
}

static void count_call(struct llama_context * whole, struct llama_context * apart, llama_token * tokens, int length, int count,
                       struct split * split) {
    printf("{\"context\": %d, \"tokens\": %d, \"instructions\": [", length, count);
    const int rounds = count < MANY ? ROUNDS : 1;
    for (int round = 0; round <= rounds; round++) {
        const int64_t started = now();
        append(whole, tokens + length, count);
        const int64_t time = now() - started;
        take_back(whole, length);
        if (round) {
            printf("%s%lld", round > 1 ? ", " : "", (long long) time);
        }
    }
    copy_text(whole, apart);
    struct split least = { .count = 0 };
    for (int round = 0; round < rounds; round++) {
        split->count = 0;
        append(apart, tokens + length, count);
        take_back(apart, length);
        keep_least(&least, split);
    }
    printf("], \"nodes\": [");
    print_split(&least);
    printf("]}");
}

int main(int count, char ** words) {
    static llama_token tokens[MOST_TOKENS];
    static struct split split;
    if (count < 3) {
        fail("count_llama MODEL CONTEXT:TOKENS... < tokens");
    }
    int given = 0;
    while (given < MOST_TOKENS && scanf("%d", &tokens[given]) == 1) {
        given++;
    }
    llama_log_set(silent, NULL);
    llama_backend_init();
    const int64_t started = now();
    struct llama_model * model = llama_model_load_from_file(words[1], llama_model_default_params());
    if (!model) {
        fail("llama.cpp cannot read the model");
    }
    struct llama_context_params how = llama_context_default_params();
    how.n_ctx = given;
    how.n_threads = how.n_threads_batch = 1;
    struct llama_context * whole = llama_init_from_model(model, how);
    const int64_t load = now() - started;
    how.cb_eval = after_node;
    how.cb_eval_user_data = &split;
    struct llama_context * apart = llama_init_from_model(model, how);
    if (!whole || !apart) {
        fail("llama.cpp cannot make a context");
    }
    printf("{\"load\": %lld, \"features\": \"%s\", \"calls\": [", (long long) load, llama_print_system_info());
    int filled = 0;
    for (int i = 2; i < count; i++) {
        int length, more;
        if (sscanf(words[i], "%d:%d", &length, &more) != 2 || length < 1 || more < 1 || length + more > given) {
            fail("a pair is CONTEXT:TOKENS, both at least 1, together no more than the tokens given");
        }
        if (length > filled) {
            append(whole, tokens + filled, length - filled);
        } else {
            take_back(whole, length);
        }
        filled = length;
        printf("%s", i > 2 ? ", " : "");
        count_call(whole, apart, tokens, length, more, &split);
    }
    printf("]}\n");
    llama_free(apart);
    llama_free(whole);
    llama_model_free(model);
    return 0;
}
