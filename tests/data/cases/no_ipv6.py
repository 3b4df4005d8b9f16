"""Runs a program with a seccomp filter in which socket(AF_INET6, …) gives EAFNOSUPPORT, as a kernel with ipv6.disable=1 does."""
import ctypes, os, platform, struct, sys
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
SYS_socket, AF_INET6, EAFNOSUPPORT = {"x86_64": 41, "aarch64": 198}[platform.machine()], 10, 97
def ins(code, jt, jf, k): return struct.pack("HBBI", code, jt, jf, k)
prog = b"".join([ins(0x20,0,0,0), ins(0x15,0,3,SYS_socket), ins(0x20,0,0,16), ins(0x15,0,1,AF_INET6), ins(0x06,0,0,0x00050000|EAFNOSUPPORT), ins(0x06,0,0,0x7fff0000)])
buf = ctypes.create_string_buffer(prog)
class F(ctypes.Structure): _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
f = F(len(prog)//8, ctypes.addressof(buf))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(f)) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
