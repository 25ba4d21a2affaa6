"""Types of annotators: an adapter for each over one base, EM over who is of which type, and the mixture of them.

After Chidambaram, Seetharaman and Syrgkanis (arXiv 2405.15065, and 2510.15716), whose code was read, and of whose text
the abstracts.
"""
