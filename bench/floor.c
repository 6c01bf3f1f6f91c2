//go:build ignore

// floor fork|epoll|split SOCKET PROGRAM is the least that can stand in onewake's
// place: it answers each HTTP/1.1 request on a Unix socket with what PROGRAM
// writes, and does nothing that this does not need. Of a request it looks only
// for the blank line and for "Connection: close". There is no second process, no sandbox, no variable, no
// time limit and no limit of any kind; the command gets /dev/null, a pipe for
// its output and one for its errors, as from onewake.
//
//	fork    a process for each connection, and calls that wait
//	epoll   one thread for everything
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HEAD = 128, OUTPUT = 64 << 10 };

// command is a process, and our ends of its pipes.
struct command {
	struct conn *c;
	int out, errs;
	pid_t pid;
};

// conn is a connection, and the command of its request while there is one.
struct conn {
	struct command k; // out is -1 between two requests
	int fd, last;
	size_t in, len;
	char request[16 << 10], answer[HEAD + OUTPUT];
};

static char *program;
static int null;

static void
start(struct command *k)
{
	char *argv[] = { program, NULL }, *envp[] = { NULL };
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	sigset_t none;
	int out[2], errs[2], e;

	if (pipe2(out, O_CLOEXEC) == -1 || pipe2(errs, O_CLOEXEC) == -1)
		err(1, "pipe2");
	sigemptyset(&none);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, null, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&fa, out[1], STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&fa, errs[1], STDERR_FILENO);
	if ((e = posix_spawn(&k->pid, program, &fa, &attr, argv, envp)) != 0)
		errx(1, "%s: %s", program, strerror(e));
	posix_spawn_file_actions_destroy(&fa);
	close(out[1]);
	close(errs[1]);
	k->out = out[0];
	k->errs = errs[0];
}

static void
reap(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) == -1 || status != 0)
		errx(1, "%s: status %d", program, status);
}

// answer is for a command that has ended. It returns -1 if the connection is
// to be closed.
static int
answer(struct conn *c)
{
	char head[HEAD], rest[4096], *start;
	int n;

	close(c->k.out);
	c->k.out = -1;
	while (read(c->k.errs, rest, sizeof rest) > 0)
		;
	close(c->k.errs);
	n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n", c->len);
	start = c->answer + HEAD - n;
	memcpy(start, head, n);
	n += c->len;
	c->len = 0;
	return send(c->fd, start, n, MSG_NOSIGNAL) == n && !c->last ? 0 : -1;
}

// request reads from the client: 1 for a whole head, -1 at the end.
static int
request(struct conn *c)
{
	ssize_t n = read(c->fd, c->request + c->in, sizeof c->request - c->in);

	if (n <= 0)
		return -1;
	c->in += n;
	if (c->in < 4 || memcmp(c->request + c->in - 4, "\r\n\r\n", 4) != 0)
		return 0;
	c->last = memmem(c->request, c->in, "Connection: close", 17) != NULL;
	c->in = 0;
	return 1;
}

// output reads from the command: 0 when it has ended.
static ssize_t
output(struct conn *c)
{
	ssize_t n = read(c->k.out, c->answer + HEAD + c->len, OUTPUT - c->len);

	if (n > 0)
		c->len += n;
	return n;
}

static void
connection(int fd)
{
	struct conn *c = calloc(1, sizeof *c);
	int more;

	c->fd = fd;
	while ((more = request(c)) >= 0) {
		if (more == 0)
			continue;
		start(&c->k);
		while (output(c) > 0)
			;
		reap(c->k.pid);
		if (answer(c) == -1)
			break;
	}
}

static void
watch(int ep, int fd, void *p)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = p };

	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == -1)
		err(1, "epoll_ctl");
}

// event goes on with a connection: a client sends nothing while it waits for
// an answer, so what can be read is the command's while there is one. ctl is
// where to ask for a command, -1 to start it here.
static int
event(int ep, int ctl, struct conn *c)
{
	int more;

	if (c->k.out == -1) {
		if ((more = request(c)) != 1)
			return more;
		if (ctl != -1)
			return write(ctl, &c, sizeof c) == sizeof c ? 0 : -1;
		start(&c->k);
		watch(ep, c->k.out, c);
		return 0;
	}
	if (output(c) > 0)
		return 0;
	// A child that is just being started may hold a copy of the pipe, so that
	// closing it does not end the watch.
	epoll_ctl(ep, EPOLL_CTL_DEL, c->k.out, NULL);
	reap(c->k.pid);
	return answer(c);
}

// message is a connection's address, and two descriptors with it.
struct message {
	struct msghdr h;
	struct iovec v;
	union {
		struct cmsghdr h;
		char b[CMSG_SPACE(2 * sizeof(int))];
	} u;
};

static void
prepare(struct message *m, struct conn **c)
{
	memset(m, 0, sizeof *m);
	m->v = (struct iovec){ c, sizeof *c };
	m->h = (struct msghdr){ .msg_iov = &m->v, .msg_iovlen = 1, .msg_control = &m->u, .msg_controllen = sizeof m->u };
	m->u.h = (struct cmsghdr){ CMSG_LEN(2 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
}

// arrived is for a command that the monitor has seen the end of.
static void
arrived(int ctl)
{
	struct message m;
	struct conn *c;
	int fds[2];

	prepare(&m, &c);
	if (recvmsg(ctl, &m.h, MSG_CMSG_CLOEXEC) != sizeof c)
		_exit(0);
	memcpy(fds, CMSG_DATA(&m.u.h), sizeof fds);
	c->k.out = fds[0];
	c->k.errs = fds[1];
	while (output(c) > 0)
		;
	if (answer(c) == -1) {
		close(c->fd);
		free(c);
	}
}

static void
loop(int l, int ctl)
{
	struct epoll_event events[64];
	int ep = epoll_create1(EPOLL_CLOEXEC), n;

	watch(ep, l, NULL);
	if (ctl != -1)
		watch(ep, ctl, &ctl);
	while ((n = epoll_wait(ep, events, 64, -1)) != -1) {
		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;

			if (c == NULL) {
				c = calloc(1, sizeof *c);
				c->k.out = -1;
				if ((c->fd = accept4(l, NULL, NULL, SOCK_CLOEXEC)) == -1)
					err(1, "accept");
				watch(ep, c->fd, c);
			} else if ((void *)c == &ctl) {
				arrived(ctl);
			} else if (event(ep, ctl, c) == -1) {
				close(c->fd);
				free(c);
			}
		}
	}
	err(1, "epoll_wait");
}

// monitor starts what the other process asks for, and hands it the pipes when
// the command has ended: a message each way.
static void
monitor(int ctl)
{
	struct command all[1024];
	struct epoll_event events[2];
	struct signalfd_siginfo info;
	struct message m;
	sigset_t chld;
	int ep = epoll_create1(EPOLL_CLOEXEC), n, sig, used = 0;
	pid_t pid;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	sig = signalfd(-1, &chld, SFD_CLOEXEC);
	watch(ep, ctl, &ctl);
	watch(ep, sig, &sig);
	while ((n = epoll_wait(ep, events, 2, -1)) != -1) {
		for (int i = 0; i < n; i++) {
			if (events[i].data.ptr == &ctl) {
				if (used == 1024 || read(ctl, &all[used].c, sizeof all[used].c) != sizeof all[used].c)
					exit(0);
				start(&all[used++]);
				continue;
			}
			if (read(sig, &info, sizeof info) == -1)
				err(1, "signalfd");
			while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) {
				int k = 0;

				while (all[k].pid != pid)
					k++;
				prepare(&m, &all[k].c);
				memcpy(CMSG_DATA(&m.u.h), (int[]){ all[k].out, all[k].errs }, 2 * sizeof(int));
				if (sendmsg(ctl, &m.h, MSG_NOSIGNAL) == -1)
					err(1, "sendmsg");
				close(all[k].out);
				close(all[k].errs);
				all[k] = all[--used];
			}
		}
	}
	err(1, "epoll_wait");
}

int
main(int argc, char *argv[])
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int l, c, ctl[2];

	if (argc != 4 || strlen(argv[2]) >= sizeof a.sun_path)
		errx(64, "usage: floor fork|epoll|split SOCKET PROGRAM");
	program = argv[3];
	if ((null = open("/dev/null", O_RDONLY | O_CLOEXEC)) == -1)
		err(1, "/dev/null");
	strcpy(a.sun_path, argv[2]);
	l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (l == -1 || bind(l, (struct sockaddr *)&a, sizeof a) == -1 || listen(l, 512) == -1)
		err(1, "%s", argv[2]);
	if (strcmp(argv[1], "epoll") == 0)
		loop(l, -1);
	if (strcmp(argv[1], "split") == 0) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ctl) == -1)
			err(1, "socketpair");
		if (fork() == 0) {
			close(ctl[0]);
			loop(l, ctl[1]);
		}
		close(ctl[1]);
		close(l);
		monitor(ctl[0]);
	}
	signal(SIGCHLD, SIG_IGN);
	while ((c = accept4(l, NULL, NULL, SOCK_CLOEXEC)) != -1) {
		if (fork() == 0) {
			signal(SIGCHLD, SIG_DFL);
			connection(c);
			_exit(0);
		}
		close(c);
	}
	err(1, "accept");
}
