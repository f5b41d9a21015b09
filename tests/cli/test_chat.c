/* test_chat.c - the chat as a person has it: on a terminal of its own, key by key,
 * with the built-in model. */
#include "program.h"

#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

enum { PATIENCE = 30 };
static char *home;

static void expect(struct terminal *t, const char *text) {
    if (!terminal_finds(t, text, PATIENCE))
        fail_msg("'%s' did not come; on the terminal: %s", text, buf_c(&t->seen) + t->read);
}

static void say(struct terminal *t, const char *keys, const char *then) {
    terminal_send(t, keys);
    expect(t, then);
    expect(t, ">>> ");
}

/* The content of message `i` in the conversation that /save wrote. */
static void saved(const char *name, size_t i, const char *role, const char *content) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", home, name);
    struct json_object *o = json_object_from_file(path), *all, *r, *c;
    assert_non_null(o);
    assert_true(json_object_object_get_ex(o, "messages", &all));
    struct json_object *m = json_object_array_get_idx(all, i);
    assert_true(json_object_object_get_ex(m, "role", &r));
    assert_true(json_object_object_get_ex(m, "content", &c));
    assert_string_equal(json_object_get_string(r), role);
    if (content) assert_string_equal(json_object_get_string(c), content);
    json_object_put(o);
}

static void test_conversation(void **state) {
    (void)state;
    struct terminal t = terminal_open("run --temp 0 -n 8", home, "EDITOR=sed -i s/second/edited/");
    char line[700];
    expect(&t, "/help lists commands");
    expect(&t, ">>> ");
    say(&t, "hello\r", "tok/s");
    say(&t, "/he\t\r", "forget the conversation");
    say(&t, "/tokens\r", " tokens");
    say(&t, "/sytsem x\r", "did you mean /system?");
    say(&t, "/set temprature 1\r", "did you mean temperature?");
    say(&t, "/set temperature 0.25\r", "\n");
    say(&t, "/show parameters\r", "temperature 0.25");
    say(&t, "/set temperature 0\r", "\n");
    say(&t, "/stats\r", "tokens in");
    /* several lines in one message: a backslash, a fence, a paste */
    terminal_send(&t, "first \\\r");
    expect(&t, "... ");
    say(&t, "second\r", "tok/s");
    say(&t, "/undo\r", "are gone");
    terminal_send(&t, "\"\"\"\r");
    expect(&t, "... ");
    terminal_send(&t, "one\r");
    expect(&t, "... ");
    say(&t, "two\"\"\"\r", "tok/s");
    terminal_send(&t, "\033[200~three\rfour \xc3\xbc\r\033[201~");
    say(&t, "\r", "tok/s");
    snprintf(line, sizeof line, "/save %s/a.json\r", home);
    say(&t, line, "Saved to");
    saved("a.json", 0, "user", "hello");
    saved("a.json", 1, "assistant", NULL);
    saved("a.json", 2, "user", "one\ntwo");
    saved("a.json", 4, "user", "three\nfour \xc3\xbc");
    /* what changes the conversation */
    say(&t, "/undo\r", "are gone");
    say(&t, "/regen\r", "tok/s");
    say(&t, "/system Be brief.\r", "system message is set");
    say(&t, "the second thing\r", "tok/s");
    say(&t, "/edit\r", "tok/s");
    snprintf(line, sizeof line, "/save %s/b.json\r", home);
    say(&t, line, "Saved to");
    saved("b.json", 0, "system", "Be brief.");
    saved("b.json", 3, "user", "one\ntwo");
    saved("b.json", 5, "user", "the edited thing");
    say(&t, "/clear\r", "is empty");
    say(&t, "/show messages\r", "Be brief.");
    snprintf(line, sizeof line, "/load %s/a.json\r", home);
    say(&t, line, "Loaded 6 messages");
    temp_write(home, "text", S("from a file"));
    snprintf(line, sizeof line, "/read %s/te\t\r", home);
    say(&t, line, "11 bytes");
    say(&t, "/regen\r", "tok/s");
    say(&t, "and this\r", "tok/s");
    say(&t, "/copy\r", "clipboard");
    snprintf(line, sizeof line, "/save %s/c.json\r", home);
    say(&t, line, "Saved to");
    saved("c.json", 6, "user", "from a file\n\nand this");
    terminal_send(&t, "/quit\r");
    assert_int_equal(terminal_close(&t), 0);

    /* What was typed is kept, and for its owner only. */
    struct stat st;
    struct buf kept = { 0 };
    struct err err = { 0 };
    snprintf(line, sizeof line, "%s/.local/state/mlxcel/history", home);
    assert_int_equal(stat(line, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_true(buf_read_file(&kept, line, 1 << 20, &err));
    assert_non_null(strstr(buf_c(&kept), "hello"));
    buf_free(&kept);
    t = terminal_open("run", home, NULL);
    expect(&t, ">>> ");
    terminal_send(&t, "\033[A");
    expect(&t, "/quit");
    terminal_send(&t, "\r");
    assert_int_equal(terminal_close(&t), 0);
}

static void test_interrupts(void **state) {
    (void)state;
    struct terminal t = terminal_open("run --temp 0 --ignore-eos --no-history", home, NULL);
    expect(&t, ">>> ");
    /* Once at the prompt is a warning, and clears the line. */
    terminal_send(&t, "abc\003");
    expect(&t, "Ctrl-C again");
    expect(&t, ">>> ");
    /* During an answer it ends the answer only. */
    terminal_send(&t, "Tell me a story.\r");
    expect(&t, "\n");
    terminal_send(&t, "\003");
    expect(&t, "; stopped");
    expect(&t, ">>> ");
    terminal_send(&t, "\003");
    expect(&t, "Ctrl-C again");
    expect(&t, ">>> ");
    terminal_send(&t, "\003");
    assert_int_equal(terminal_close(&t), 130);

    t = terminal_open("run --no-history", home, NULL);
    expect(&t, ">>> ");
    terminal_send(&t, "\004");
    assert_int_equal(terminal_close(&t), 0);

    /* One shot: a stopped answer is a stopped program. */
    t = terminal_open("run --temp 0 --ignore-eos -p 'Tell me a story.'", home, NULL);
    expect(&t, " ");
    terminal_send(&t, "\003");
    expect(&t, "; stopped");
    assert_int_equal(terminal_close(&t), 130);
}

static void test_colors(void **state) {
    (void)state;
    static const struct { const char *line, *setting; bool dim; } row[] = {
        { "run --temp 0 -n 4 -p x", NULL, true },
        { "run --temp 0 -n 4 -p x --color never", NULL, false },
        { "run --temp 0 -n 4 -p x", "NO_COLOR=1", false },
        { "run --temp 0 -n 4 -p x", "TERM=dumb", false },
        { "run --temp 0 -n 4 -p x --color always", "NO_COLOR=1", true },
    };
    for (size_t i = 0; i < COUNT(row); i++) {
        struct terminal t = terminal_open(row[i].line, home, row[i].setting);
        expect(&t, "tok/s");
        bool dim = strstr(buf_c(&t.seen), "\033[2m") != NULL;
        if (dim != row[i].dim) fail_msg("%s: %s", row[i].line, buf_c(&t.seen));
        assert_int_equal(terminal_close(&t), 0);
    }
    struct terminal t = terminal_open("run --temp 0 -n 4 -q -p x", home, NULL);
    assert_false(terminal_finds(&t, "tok/s", PATIENCE));
    assert_int_equal(terminal_close(&t), 0);
}

static int make_home(void **state) {
    (void)state;
    home = temp_dir();
    return 0;
}

static int drop_home(void **state) {
    (void)state;
    temp_free(home);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conversation), cmocka_unit_test(test_interrupts),
        cmocka_unit_test(test_colors),
    };
    return cmocka_run_group_tests(tests, make_home, drop_home);
}
