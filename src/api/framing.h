/* framing.h - where the heads of a connection begin and end, read from its bytes before
 * libmicrohttpd has them.
 *
 * The library takes a line without a name for the end of a head, ends lines at a bare CR or LF, and
 * writes over all of that before it shows a head to anybody. What it then takes for the next
 * request may be part of this one for a proxy in front of us, and somebody else's words. */
#pragma once
#include "base/base.h"

enum { FRAMING_LINE_MAX = 64 };

enum framing_part {
    FRAME_START,                     /* before a request line; empty lines are skipped */
    FRAME_LINE,                      /* inside of a line of the head */
    FRAME_BODY, FRAME_SIZE, FRAME_CHUNK, FRAME_CHUNK_END,
    FRAME_TRAILER,                   /* inside of a line after the last chunk */
    FRAME_LOST                       /* nothing is known from here on */
};

struct framing {
    enum framing_part part;
    uint64_t n_heads;                /* that have begun */
    uint64_t bad_from;               /* the number of the first that is not to be served; 0: none */
    bool first, chunked, has_length; /* the head's first line; what it says of its body, */
    bool unclear;                    /*   which cannot be followed */
    char end;                        /* how lines of this head end: '\r' for both, '\n'; 0: open */
    bool cr;                         /* the last byte was a CR */
    uint64_t left;                   /* bytes of the body or of the chunk that are to come */
    char line[FRAMING_LINE_MAX];     /* the beginning of the current line */
    size_t line_len;                 /* all of it */
};

/* More bytes of the connection, in the order in which they came. */
void framing_see(struct framing *, const char *bytes, size_t n);
/* Whether the connection's request of this number, counted from 1, has a head like any other. */
bool framing_is_plain(const struct framing *, int64_t number);

/* From now on what is received there goes through framing_see, on the thread that receives. False:
 * the descriptor is too large a number. */
bool framing_watch(int fd, struct framing *);
void framing_forget(int fd);         /* before it is closed */
