/* stream.c - generated text to events. For now all of it is content. */
#include "prompt/prompt.h"
#include <stdlib.h>

struct chat_stream { int index; };

struct chat_stream *chat_stream_open(const struct chat *chat, const struct prompt *prompt, bool tools) {
    (void)chat, (void)prompt, (void)tools;
    return mem_new(sizeof(struct chat_stream));
}

void chat_stream_push(struct chat_stream *s, struct str piece, bool last,
                      void (*emit)(void *to, const struct chat_event *), void *to) {
    if (piece.len) emit(to, &(struct chat_event){ CHAT_TEXT, s->index, piece });
    if (last) emit(to, &(struct chat_event){ CHAT_END, s->index, { 0 } });
}

void chat_stream_close(struct chat_stream *s) {
    free(s);
}
