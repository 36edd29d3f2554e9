"""An independent look at whether anything was lost or done twice.

It reads what the platform leaves behind – the database, the agents' disks, the log of signatures – and imports nothing
of the product: a mistake there is not repeated here. To be run when nothing is in motion.
"""
