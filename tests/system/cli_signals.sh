#!/bin/bash
# Between a program and its user the command is not noticed: statuses, signals in both directions, the terminal's signals
# once, stops and continuations by job control, dispositions and masks as they were.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
freehold=$BUILD_DIR/freehold
cd "$work"
run=("$freehold" run --json figures.json --)

for status in 0 1 23 125 126 127 255; do
    claims=$((claims + 2))
    got=0
    "${run[@]}" bash -c "exit $status" >out 2>&1 || got=$?
    ((got == status)) || not_so "the status $status is passed on" "$(status_in_words $got)" out
    got=0
    "$freehold" run -- bash -c "exit $status" >out 2>&1 || got=$?
    ((got == status)) || not_so "the status $status is PROG's own without a report" "$(status_in_words $got)" out
done

# Everything about signals that needs more than a shell.
cat >program.py <<'END'
# Appends a line for each signal to the file argv[1]; ends by SIGTERM's handler with status 9.
import os, signal, sys, time
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def say(text):
    os.write(log, (text + "\n").encode())
def note(number, frame):
    say(signal.Signals(number).name)
    if number == signal.SIGTERM:
        os._exit(9)
for name in sys.argv[2:]:
    signal.signal(getattr(signal, name), note)
say("ready %d" % os.getpid())
while True:
    time.sleep(0.01)
END
cat >check.py <<'END'
import fcntl, os, signal, subprocess, sys, termios, time
freehold = sys.argv[1]
run = [freehold, "run", "--json", "figures.json", "--"]
claims = failures = 0

def claim(text, holds, but=""):
    global claims, failures
    claims += 1
    if not holds:
        failures += 1
        print("FAILED: expected: %s\n    but: %s" % (text, but))

def lines(path):
    try:
        return open(path).read().split("\n")[:-1]
    except FileNotFoundError:
        return []

def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    return None

def ready(path):
    line = until(lambda: lines(path))
    return int(line[0].split()[1]) if line else 0

def state(pid):
    try:
        return open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "gone"

# Signals sent to the command's process id.
passed = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGWINCH", "SIGIO", "SIGPIPE"]
process = subprocess.Popen(run + [sys.executable, "program.py", "sent", "SIGTERM"] + passed)
program = ready("sent")
for number, name in enumerate(passed):
    process.send_signal(getattr(signal, name))
    until(lambda: len(lines("sent")) >= number + 2)
claim("signals sent to the command reach the program, once each", lines("sent")[1:] == passed, lines("sent"))
process.send_signal(signal.SIGTERM)
claim("the program's own status after SIGTERM", process.wait(20) == 9, process.returncode)

# The signal that kills the program kills the command, without a core of its own.
for name in ["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL", "SIGSEGV", "SIGABRT", "SIGPIPE", "SIGUSR1", "SIGRTMIN"]:
    number = int(getattr(signal, name))
    got = subprocess.run(run + ["bash", "-c", "kill -%d $$" % number]).returncode
    claim("death by %s is passed on" % name, got == -number, got)
process = subprocess.Popen(run + ["sleep", "100"])
until(lambda: lines("/proc/%d/task/%d/children" % (process.pid, process.pid)) or
      subprocess.run(["pgrep", "-P", str(process.pid), "sleep"], stdout=subprocess.DEVNULL).returncode == 0)
process.send_signal(signal.SIGTERM)
claim("SIGTERM with the default action ends both", process.wait(20) == -signal.SIGTERM, process.returncode)

# Dispositions and masks are inherited as they were.
show = "import signal, sys; print([s for s in ('SIGHUP', 'SIGCHLD', 'SIGINT', 'SIGPIPE') if signal.getsignal(getattr(signal, s)) == signal.SIG_IGN], sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
def ignoring():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
def output(command):
    return subprocess.run(command, preexec_fn=ignoring, stdout=subprocess.PIPE, timeout=20)
bare = output([sys.executable, "-c", show])
under = output(run + [sys.executable, "-c", show])
claim("dispositions and mask are inherited", bare.stdout == under.stdout and under.returncode == 0,
      "%r, not %r, status %d" % (under.stdout, bare.stdout, under.returncode))

# No descriptor of ours is open in the program.
count = "import os; print(os.listdir('/proc/self/fd'))"
bare = subprocess.run([sys.executable, "-c", count], stdout=subprocess.PIPE).stdout
under = subprocess.run(run + [sys.executable, "-c", count], stdout=subprocess.PIPE).stdout
claim("no descriptor is inherited that the program would not have", bare == under, under)

# Job control: a shell (the session's leader) with a terminal, the command as its foreground job.
leader, side = os.openpty()
shell = os.fork()
if shell == 0:
    os.setsid()
    fcntl.ioctl(side, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(side, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.dup2(side, 0)
        os.execv(freehold, run + [sys.executable, "program.py", "job", "SIGINT", "SIGTERM", "SIGCONT", "SIGWINCH"])
    program = ready("job")
    os.write(leader, b"\x03")
    until(lambda: lines("job")[1:] == ["SIGINT"])
    time.sleep(0.2)
    claim("the terminal's interrupt reaches the program once", lines("job")[1:] == ["SIGINT"], lines("job"))
    claim("and does not end the command", os.waitpid(job, os.WNOHANG)[0] == 0)
    for turn in range(3):
        os.write(leader, b"\x1a")
        pid, status = os.waitpid(job, os.WUNTRACED)
        claim("the terminal's suspend stops the command by SIGTSTP, turn %d" % turn,
              os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTSTP, status)
        claim("and the program", until(lambda: state(program) == "T"), state(program))
        os.tcsetpgrp(side, os.getpid())
        os.tcsetpgrp(side, job)
        # As shells do it, to the whole group; or to the command alone.
        if turn < 2:
            os.killpg(job, signal.SIGCONT)
        else:
            os.kill(job, signal.SIGCONT)
        claim("continued, the program runs, turn %d" % turn, until(lambda: state(program) in "SR"), state(program))
        claim("and the command", until(lambda: state(job) in "SR"), state(job))
        until(lambda: lines("job").count("SIGCONT") == turn + 1)
        claim("having seen SIGCONT once a turn", lines("job").count("SIGCONT") == turn + 1, lines("job"))
    os.kill(program, signal.SIGSTOP)
    pid, status = os.waitpid(job, os.WUNTRACED)
    claim("a stop of the program alone stops the command by the same signal",
          os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP, status)
    os.kill(job, signal.SIGCONT)
    claim("whose SIGCONT continues the program", until(lambda: state(program) in "SR"), state(program))
    os.kill(job, signal.SIGTSTP)
    pid, status = os.waitpid(job, os.WUNTRACED)
    claim("a suspend sent to the command stops both", os.WIFSTOPPED(status) and
          until(lambda: state(program) == "T"), state(program))
    os.kill(job, signal.SIGCONT)
    until(lambda: state(program) in "SR")
    os.kill(job, signal.SIGTERM)
    pid, status = os.waitpid(job, 0)
    claim("the job ends with the program's status", os.WIFEXITED(status) and os.WEXITSTATUS(status) == 9, status)
    print("%d claims, %d failed" % (claims, failures))
    sys.stdout.flush()
    os._exit(failures > 0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(shell, 0)[1]))
END
passes "signals and job control pass through" python3 check.py "$freehold"
[[ -z ${VERBOSE-} ]] || cat out
finish
