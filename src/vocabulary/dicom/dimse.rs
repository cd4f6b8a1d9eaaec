//! C-ECHO and C-STORE commands as typed requests, responses and statuses (PS3.7 9.3, 10.3).
