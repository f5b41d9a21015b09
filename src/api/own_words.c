/* own_words.c - errors that libmicrohttpd makes itself, as JSON instead of HTML.
 *
 * What it cannot take apart it answers without asking anybody: with one of its pages, made into a
 * response by its own public function. A program's definition of a function comes before that of a
 * shared library, so that function is defined here, does the same, and puts OpenAI's shape in the
 * place of a page; so is the one that sends it, for a status that would be wrong. Where the library
 * was built to call its own, clients get HTML as before. */
#include "api/openai.h"

#include <assert.h>
#include <dlfcn.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static bool is_page(struct str text) {
    return str_starts(text, "<html><head><title>");
}

/* The sentence of a page, without its tags. */
static void put_sentence(struct buf *to, struct str page) {
    const char *body = memmem(page.at, page.len, "<body>", 6);
    struct str rest = body ? str_from(page, (size_t)(body - page.at)) : page;
    bool tag = false;
    for (size_t i = 0; i < rest.len; i++) {
        if (rest.at[i] == '<') tag = true;
        else if (rest.at[i] == '>') tag = false;
        else if (!tag && str_starts(str_from(rest, i), "&quot;")) i += 5;
        else if (!tag) buf_char(to, rest.at[i]);
    }
}

/* The status is not known here, but each page has a title of its own. */
static int status_of(struct str page) {
    static const struct { const char *title; int status; } all[] = {
        { "Request content too large", 413 }, { "Request too big", 431 },
        { "Internal server error", 500 },     { "Requested HTTP version", 505 },
    };
    struct str title = str_from(page, strlen("<html><head><title>"));
    for (size_t i = 0; i < COUNT(all); i++)
        if (str_starts(title, all[i].title)) return all[i].status;
    return 400;
}

typedef enum MHD_Result queue_function(struct MHD_Connection *, unsigned status,
                                       struct MHD_Response *);
static queue_function *library_queue;
static pthread_once_t library_once = PTHREAD_ONCE_INIT;
/* Made on this thread in place of a page of status 500, and not queued yet: only compared. */
static _Thread_local const struct MHD_Response *misjudged;

static void library_find(void) {
    *(void **)&library_queue = dlsym(RTLD_NEXT, "MHD_queue_response");
    assert(library_queue);
}

enum MHD_Result MHD_queue_response(struct MHD_Connection *connection, unsigned status,
                                   struct MHD_Response *response) {
    pthread_once(&library_once, library_find);
    if (response == misjudged) status = 400;
    misjudged = NULL;
    return library_queue(connection, status, response);
}

static struct MHD_Response *as_json(struct str page) {
    struct buf json = { 0 }, sentence = { 0 };
    struct fault f = { 0 };
    char id[REQUEST_ID_MAX + 1];
    int status = status_of(page);
    /* That page is for whoever wrote the server, but the one known way to it is the client's: a
     * line before a chunk that does not end. */
    bool endless = status == 500;
    if (endless) buf_str(&sentence, S("the line before a chunk does not fit the memory for it"));
    else put_sentence(&sentence, page);
    if (endless) status = 400;
    fault_set(&f, status, NULL, "%s", buf_c(&sentence));
    request_id_new(id, sizeof id);
    fault_openai(&json, &f, id);
    buf_free(&sentence);
    struct MHD_Response *r =
        MHD_create_response_from_buffer_with_free_callback(json.len, json.at, free);
    MHD_add_response_header(r, "Content-Type", "application/json; charset=utf-8");
    MHD_add_response_header(r, "x-request-id", id);
    misjudged = endless ? r : NULL;
    return r;
}

static void keep(void *bytes) {
    (void)bytes;
}

struct MHD_Response *MHD_create_response_from_buffer(size_t size, void *bytes,
                                                     enum MHD_ResponseMemoryMode mode) {
    struct str text = { bytes, size };
    if (mode == MHD_RESPMEM_PERSISTENT && is_page(text)) return as_json(text);
    if (mode == MHD_RESPMEM_MUST_COPY) bytes = memcpy(mem_new(size + 1), bytes, size);
    return MHD_create_response_from_buffer_with_free_callback(
        size, bytes, mode == MHD_RESPMEM_PERSISTENT ? keep : free);
}
